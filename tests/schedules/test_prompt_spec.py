"""How a user asks for a prompt plan."""

from typing import Any

import pytest

from skiplab.schedules.exit_schedule import ExitSchedule, skip_plan
from skiplab.schedules.prompt_plan import ALL, PromptPart
from skiplab.schedules.prompt_spec import PromptSpec


@pytest.mark.parametrize("kind", ["skip", "terminate"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5)])
def test_depth_falls_over_the_prompt_to_that_of_the_first_step(kind: Any, start: float, end: float) -> None:
    schedule = ExitSchedule(num_layers=12, max_exit=5, min_exit=3, horizon=9)
    plan = PromptSpec(form="decay", start=start, end=end).plan(12, schedule.plan(1, kind))
    assert plan.last_layers == schedule.plan(1, kind)
    length = 200
    runs = [
        tuple(layer for layer in range(12) if position < sum(plan.part(layer).ends(length)))
        for position in range(length)
    ]
    for position, layers in enumerate(runs):
        x = position / length
        # Of a linear fall, rounded; at its start and end, where it is steep or the rounding turns, to one layer.
        fallen = 1.0 if x >= end else max(0.0, (x - start) / (end - start)) if end > start else 0.0
        assert abs(len(layers) - (12 - 7 * fallen)) <= 1
        before = runs[max(0, position - 1)]
        assert set(layers) <= set(before)
        if kind == "skip":
            assert layers == skip_plan(12, len(layers), 1)
        else:
            assert layers == tuple(range(len(layers)))


def test_nothing_falls_towards_full_depth() -> None:
    assert PromptSpec(form="decay").plan(6, tuple(range(6))).is_whole


def test_upper_layers_run_on_the_ends() -> None:
    plan = PromptSpec(form="ends", from_layer=4, first=2, last=3).plan(6, (0, 5))
    assert plan.parts == (*[ALL] * 4, *[PromptPart(first=2, last=3)] * 2)
    assert not plan.projects
    assert PromptSpec(form="project", from_layer=4).plan(6, (0, 5)).projects


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"form": "decay"}, "prompt decay"),
        ({"form": "decay", "start": 0.25, "end": 0.5}, "prompt decay 0.25-0.5"),
        ({"form": "ends", "from_layer": 6, "first": 4, "last": 16}, "prompt ends from 6 4+16"),
        ({"form": "project", "from_layer": 6, "first": None}, "prompt project from 6"),
    ],
)
def test_names(options: dict[str, Any], name: str) -> None:
    assert str(PromptSpec.of(options)) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "linear"}, "prompt form must be one of decay, ends, project, got 'linear'"),
        ({"from_layer": 3}, r"prompt takes form .*, got \['from_layer'\]"),
        ({"form": "ends", "from_layer": 3, "tail": 3}, "prompt takes form"),
        ({"form": "decay", "from_layer": 3}, "decay takes start and end"),
        ({"form": "decay", "start": 0.5, "end": 0.25}, "0 <= start <= end <= 1"),
        ({"form": "decay", "start": 1.0}, "start below 1"),
        ({"form": "ends", "from_layer": 3, "start": 0.5}, "start and end are of decay"),
        ({"form": "ends"}, "needs from_layer, 1 or above, got None"),
        ({"form": "project", "from_layer": 0}, "needs from_layer, 1 or above, got 0"),
        ({"form": "ends", "from_layer": 3, "last": 0}, "last at least 1, got 0 and 0"),
        ({"form": "ends", "from_layer": "upper"}, "prompt from_layer must be an integer, got 'upper'"),
        ({"form": "ends", "from_layer": 2.5}, "prompt from_layer must be an integer, got 2.5"),
        ({"form": "ends", "from_layer": 3, "first": True}, "prompt first must be an integer, got True"),
        ({"form": "decay", "end": "half"}, "prompt end must be a number, got 'half'"),
        ({"form": "decay", 3: 4}, r"prompt takes form .*, got \['form', 3\]"),
    ],
)
def test_what_makes_no_plan_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptSpec.of(options)


def test_a_layer_that_the_backbone_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="from_layer must be below the backbone's 6 layers, got 6"):
        PromptSpec(form="ends", from_layer=6).plan(6, (0,))
