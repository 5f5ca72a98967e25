"""The layers that run at each position of a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.schedules.prompt_plan import ALL, NONE, PromptPart, PromptPlan, check_prompt

PARTS = st.one_of(
    st.just(ALL),
    st.builds(PromptPart, share=st.floats(0, 0.999)),
    st.builds(PromptPart, share=st.floats(0, 0.999), first=st.integers(0, 9), last=st.integers(1, 9)),
)


def run(part: PromptPart, length: int) -> list[int]:
    leading, trailing = part.ends(length)
    return [position for position in range(length) if position < leading or position >= length - trailing]


@given(PARTS, st.integers(1, 40))
def test_ends_count_what_runs(part: PromptPart, length: int) -> None:
    positions = run(part, length)
    assert part.count(length) == len(positions) == sum(part.ends(length)) <= length
    assert [part.before(length, upto) for upto in range(length + 2)] == [
        sum(position < upto for position in positions) for upto in range(length + 2)
    ]


@given(PARTS, st.integers(1, 40))
def test_whether_the_last_position_runs_does_not_depend_on_the_length(part: PromptPart, length: int) -> None:
    assert (length - 1 in run(part, length)) is part.runs_last


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (ALL, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (NONE, []),
        (PromptPart(share=0.3), [0, 1, 2]),
        (PromptPart(share=0.29), [0, 1]),
        (PromptPart(first=2, last=3), [0, 1, 7, 8, 9]),
        (PromptPart(first=8, last=8), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (PromptPart(share=0.4, first=1, last=1), [0, 1, 2, 3, 9]),
    ],
)
def test_parts_of_ten_positions(part: PromptPart, expected: list[int]) -> None:
    assert run(part, 10) == expected


@pytest.mark.parametrize("bad", [{"share": 1.1}, {"share": -0.1}, {"first": -1, "last": 1}, {"last": -1}])
def test_values_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        PromptPart(**bad)  # type: ignore[arg-type]


def test_a_number_of_first_positions_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="can be given only with at least 1 last one"):
        PromptPart(first=4)


def test_a_plan_knows_its_layers_and_what_they_hold() -> None:
    plan = PromptPlan((ALL, PromptPart(share=0.5), PromptPart(first=1, last=2), NONE))
    assert plan.layers == (0, 1, 2)
    assert plan.last_layers == (0, 2)
    assert not plan.is_whole
    assert [plan.held(layer, 8, 8) for layer in range(5)] == [8, 4, 3, 0, 0]
    assert [plan.held(2, 8, upto) for upto in (0, 1, 6, 7, 8, 12)] == [0, 1, 1, 2, 3, 3]
    assert plan.mean_depth([8, 8]) == (8 + 4 + 3) / 8
    projecting = PromptPlan(plan.parts, projects=True)
    assert [projecting.held(layer, 8, 7) for layer in range(5)] == [7, 7, 7, 0, 0]


def test_the_whole_prompt_is_the_trivial_plan() -> None:
    plan = PromptPlan.whole((0, 2))
    assert plan.is_whole
    assert plan.layers == plan.last_layers == (0, 2)
    assert plan.mean_depth([3, 5]) == 2
    assert PromptPlan.whole(()).layers == ()


def test_the_last_position_must_run_the_layers_of_the_decode_steps() -> None:
    plan = PromptPlan((ALL, PromptPart(share=0.5), PromptPart(last=1)))
    check_prompt(plan, [(0, 2), (2,)])
    with pytest.raises(ValueError, match=r"this prompt plan leaves out \[1, 3\] there"):
        check_prompt(plan, [(0, 1, 2), (2, 3)])
