"""Nested plans, represented by the number of steps per layer."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.schedules.exit_schedule import ExitSchedule, decode_steps, expected_depth, layer_steps
from skiplab.schedules.nested_plan import NestedPlan, by_priority, random_plan

STEPS = st.lists(st.integers(1, 9), min_size=1, max_size=6).filter(lambda steps: max(steps) > 1)


@given(STEPS)
def test_a_plan_can_be_rebuilt_from_its_segments(steps: list[int]) -> None:
    plan = NestedPlan(tuple(steps))
    again = NestedPlan.from_segments(len(steps), plan.segments())
    assert [again.plan(step) for step in range(12)] == [plan.plan(step) for step in range(12)]
    assert plan.segments() == again.segments()


@given(STEPS)
def test_plans_convert_to_steps_per_layer_and_back(steps: list[int]) -> None:
    plan = NestedPlan(tuple(steps))
    last = max(steps) - 1
    assert layer_steps(plan.plan, len(steps), last) == steps
    assert plan.plans() == [plan.plan(step) for step in range(last + 1)]
    assert plan.plan(0) == tuple(range(len(steps)))
    assert NestedPlan.of(plan.plan, len(steps), last) == plan


def test_schedules_of_equal_depths_give_equal_plans() -> None:
    def plan(max_exit: float, min_exit: float) -> NestedPlan:
        schedule = ExitSchedule(num_layers=6, max_exit=max_exit, min_exit=min_exit, horizon=5)
        return NestedPlan.of(schedule.plan, 6, 11)

    assert plan(4.1, 2.0) == plan(4.2, 2.05)
    assert plan(4.1, 2.0) != plan(4.1, 3.0)
    reach = decode_steps([3, 5, 12])
    schedule = ExitSchedule(num_layers=6, max_exit=4.1, min_exit=2.0, horizon=5)
    assert plan(4.1, 2.0).mean_depth(reach) == expected_depth(schedule.depth, reach)
    assert plan(4.1, 2.0).layer_speedup(reach) == 6 / expected_depth(schedule.depth, reach)


def test_priorities() -> None:
    plan = by_priority([0, 3, 1, 2], lambda step: 3 if step < 3 else 1, 5)
    assert [plan.plan(step) for step in range(4)] == [(0, 1, 2, 3), (0, 1, 3), (0, 1, 3), (0,)]


@given(st.integers(0, 10**6))
def test_random_plans_keep_the_bottom_layer_and_the_lowest_depth(seed: int) -> None:
    plan = random_plan(random.Random(seed), 8, 20, 2)
    assert plan.steps_L[0] == 21
    assert min(plan.depth(step) for step in range(30)) >= 2


def test_random_plans_include_every_kind() -> None:
    rng = random.Random(0)
    drawn = [random_plan(rng, 8, 20, 2) for _ in range(200)]
    assert any(plan.plan(30) == tuple(range(plan.depth(30))) and plan.depth(1) < 8 for plan in drawn)
    assert any(plan.plan(30)[-1] == 7 and plan.depth(30) == 3 for plan in drawn)
    assert any(plan.depth(1) > plan.depth(30) for plan in drawn)
    assert any(len(set(plan.steps_L)) == 2 for plan in drawn)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "must begin at step 1"),
        ([(2, [0])], "must begin at step 1"),
        ([(1, [0, 1]), (1, [0])], "ascending steps, got 1 after 1"),
        ([(1, [0]), (3, [1])], r"from step 3 on a plan must run some of the layers .*got \[1\] after \[0\]"),
        ([(1, [])], "from step 1 on"),
        ([(1, [7])], "from step 1 on"),
    ],
)  # fmt: skip
def test_bad_segments(segments: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NestedPlan.from_segments(3, segments)


def test_a_plan_without_steps_is_refused() -> None:
    for steps in ((), (0, 2), (1, 1)):
        with pytest.raises(ValueError, match="each layer must run at step 0"):
            NestedPlan(steps)
