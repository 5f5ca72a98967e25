"""Properties of schedules, plans and the solver."""

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skiplab.schedules.exit_schedule import (
    DECAYS,
    HORIZONS,
    ExitSchedule,
    decode_steps,
    expected_depth,
    layer_steps,
    median_length,
    skip_plan,
    terminate_plan,
)
from skiplab.schedules.schedule_solver import ScheduleSpec, solve_schedule

LENGTHS = [12, 18, 20, 20, 22, 25, 30, 41]


@st.composite
def schedules(draw: st.DrawFn) -> ExitSchedule:
    num_layers = draw(st.integers(1, 48))
    max_exit = draw(st.floats(1, num_layers))
    min_exit = draw(st.floats(1, max_exit))
    decay = draw(st.sampled_from(sorted(DECAYS)))
    lowest = DECAYS[decay].lowest_rate
    rate = draw(st.none() | st.floats(max(lowest, 0.05), 8))
    if decay == "constant":
        min_exit = max_exit
    warmup = draw(st.integers(0, math.floor(min_exit)))
    return ExitSchedule(
        num_layers=num_layers, max_exit=max_exit, min_exit=min_exit, warmup=warmup, decay=decay, rate=rate,
        horizon=draw(st.integers(2, 80)),
    )  # fmt: skip


@given(schedules(), st.sampled_from(["skip", "terminate"]))
def test_plans_nest_for_every_schedule(schedule: ExitSchedule, kind) -> None:
    plans = [schedule.plan(step, kind) for step in range(1, 100)]
    assert all(set(later) <= set(earlier) for earlier, later in pairwise(plans))
    layer_steps(lambda step: schedule.plan(step, kind), schedule.num_layers, 99)


@given(schedules())
def test_depth_runs_from_maximum_to_minimum_and_stays(schedule: ExitSchedule) -> None:
    depths = [schedule.depth(step) for step in range(120)]
    assert depths[0] == schedule.num_layers
    assert depths[1] == math.floor(schedule.max_exit + 0.5)
    assert depths[schedule.horizon :] == [math.floor(schedule.min_exit + 0.5)] * (120 - schedule.horizon)
    assert all(later <= earlier for earlier, later in pairwise(depths))


@given(schedules(), st.integers(1, 100))
def test_plans_have_the_schedules_depth_with_warmup_and_top_layers(schedule: ExitSchedule, step: int) -> None:
    depth = schedule.depth(step)
    plan = schedule.plan(step)
    assert len(plan) == depth
    assert list(plan) == sorted(set(plan))
    assert plan[: schedule.warmup] == tuple(range(schedule.warmup))
    assert depth == schedule.warmup or plan[-1] == schedule.num_layers - 1
    assert schedule.plan(step, "terminate") == tuple(range(depth))


@given(
    target=st.floats(1, 6),
    decay=st.sampled_from(sorted(set(DECAYS) - {"constant"})),
    warmup=st.integers(0, 3),
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=40),
)
def test_solver_meets_reachable_targets(target: float, decay: str, warmup: int, lengths: list[int]) -> None:
    num_layers = 24
    assume(target <= num_layers / (warmup + 1))
    assume(len(decode_steps(lengths)) >= 12)
    try:
        schedule = solve_schedule(target, num_layers=num_layers, lengths=lengths, warmup=warmup, decay=decay)
    except ValueError as error:
        # So few steps allow no closer speedup: the message names those on both sides, beyond the tolerance.
        near, far = map(float, re.findall(r"nearest are ([\d.]+) and ([\d.]+)", str(error))[0])
        assert min(abs(near / target - 1), abs(far / target - 1)) > 0.045
        return
    assert schedule.warmup + 1 <= schedule.min_exit <= schedule.max_exit <= num_layers
    assert num_layers / expected_depth(schedule.depth, decode_steps(lengths)) == pytest.approx(target, rel=0.0501)


@pytest.mark.parametrize("target", [1, 1.5, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("decay", ["linear", "power", "cosine", "exponential", "step"])
def test_solver_is_accurate_for_usual_lengths(target: float, decay: str) -> None:
    schedule = solve_schedule(target, num_layers=12, lengths=LENGTHS * 5, decay=decay)
    assert 12 / expected_depth(schedule.depth, decode_steps(LENGTHS)) == pytest.approx(target, rel=0.05)


def test_solver_weights_steps_by_output_lengths_not_by_the_horizon() -> None:
    short = solve_schedule(3, num_layers=12, lengths=[10], horizon=60)
    assert 12 / expected_depth(short.depth, decode_steps([10])) == pytest.approx(3, rel=0.05)
    assert 12 / expected_depth(short.depth, decode_steps([60])) > 3.1


def test_expected_depth_by_hand() -> None:
    schedule = ExitSchedule(num_layers=8, max_exit=6, min_exit=2, horizon=3, warmup=1)
    assert [schedule.depth(step) for step in range(5)] == [8, 6, 4, 2, 2]
    # Outputs of lengths 2, 3 and 5 have decode steps {1}, {1, 2} and {1, 2, 3, 4}.
    assert decode_steps([2, 5, 3]) == [3, 2, 1, 1]
    assert expected_depth(schedule.depth, [3, 2, 1, 1]) == pytest.approx((3 * 6 + 2 * 4 + 2 + 2) / 7)


@pytest.mark.parametrize(
    ("decay", "rate", "depths"),
    [
        ("linear", None, [9, 7, 5, 3, 1]),
        ("power", 2, [9, 6, 3, 2, 1]),
        ("cosine", None, [9, 8, 5, 2, 1]),
        ("exponential", 2, [9, 5, 3, 2, 1]),
        ("step", 2, [9, 9, 1, 1, 1]),
    ],
)
def test_decays_by_hand(decay: str, rate: float | None, depths: list[int]) -> None:
    schedule = ExitSchedule(num_layers=12, max_exit=9, min_exit=1, horizon=5, decay=decay, rate=rate)
    assert [schedule.depth(step) for step in range(1, 6)] == depths


def test_plans_by_hand() -> None:
    assert skip_plan(12, 5, 2) == (0, 1, 9, 10, 11)
    assert skip_plan(12, 12, 3) == tuple(range(12))
    assert terminate_plan(3) == (0, 1, 2)
    assert layer_steps(lambda step: skip_plan(4, 4 - step, 1), 4, 2) == [3, 1, 2, 3]
    assert layer_steps(lambda step: (1, 3), 4, 2) == [0, 3, 0, 3]


def test_plans_that_are_not_nested_are_refused() -> None:
    with pytest.raises(ValueError, match="step 2 runs layer 3, which step 1 left out"):
        layer_steps(lambda step: [(0, 1, 3), (0, 1), (0, 3)][step], 4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_exit": 3, "min_exit": 4}, "1 <= min_exit <= max_exit"),
        ({"max_exit": 13}, "max_exit=13, num_layers=12"),
        ({"min_exit": 0.5}, "min_exit=0.5"),
        ({"warmup": 3}, "warmup must lie between 0 and min_exit=2, got 3"),
        ({"horizon": 1}, "horizon must be at least 2"),
        ({"decay": "lineal"}, "unknown decay 'lineal'; choose one of linear, power"),
        ({"decay": "constant"}, "set max_exit equal to min_exit"),
        ({"decay": "power", "rate": -1}, "rate of the power decay must be at least 0.001"),
        ({"decay": "step", "rate": 1}, "rate of the step decay must be at least 2"),
    ],
)
def test_bad_schedules_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"num_layers": 12, "max_exit": 6, "min_exit": 2, "warmup": 1, "horizon": 20}
    with pytest.raises(ValueError, match=message):
        ExitSchedule(**(good | options))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (7, {}, "12 layers with a warm-up of 1 allow speedups of 1 to 6"),
        (0.5, {}, "cannot be reached"),
        (3, {"warmup": 4}, "allow speedups of 1 to 2.4"),
        (3, {"warmup": 13}, "warmup must lie between 0 and the 12 layers"),
        (3, {"spread": 2}, "spread must lie in"),
        (5, {"decay": "constant"}, "nearest are 6 and 4"),
        (3, {"lengths": [1, 1]}, "no output is longer than one token"),
    ],
)
def test_unreachable_targets_are_refused_with_the_reachable_ones(
    target: float, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        solve_schedule(target, **({"num_layers": 12, "lengths": LENGTHS} | options))


def test_a_spec_takes_either_a_speedup_or_exit_layers() -> None:
    assert ScheduleSpec(max_exit=8, min_exit=4).schedule(12, LENGTHS).horizon == median_length(LENGTHS) == 22
    assert ScheduleSpec(speedup=2, horizon=30).schedule(12, LENGTHS).horizon == 30
    assert str(ScheduleSpec(speedup=2.5)) == "2.5x"
    assert str(ScheduleSpec(max_exit=8, min_exit=4, decay="cosine")) == "8 to 4 layers cosine"
    assert str(ScheduleSpec(speedup=3, warmup=2)) == "3x warmup 2"
    assert str(ScheduleSpec(speedup=3, horizon="half")) == "3x horizon half"
    assert str(ScheduleSpec(speedup=3, horizon=40)) == "3x horizon 40"
    assert str(ScheduleSpec(speedup=3, decay="power", warmup=0, horizon="p95")) == "3x power warmup 0 horizon p95"
    wrongs: list[dict[str, Any]] = [
        {},
        {"speedup": 2, "max_exit": 4, "min_exit": 2},
        {"max_exit": 4},
        {"speedup": 2, "min_exit": 4},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="give either speedup, or max_exit and min_exit"):
            ScheduleSpec(**wrong)


def test_horizons_by_hand() -> None:
    # The median is the fifth of eight lengths; p95 is the eighth, since 0.95 * 8 = 7.6.
    assert {name: horizon(LENGTHS) for name, horizon in HORIZONS.items()} == {
        "half": 11, "median": 22, "p95": 41, "double": 44,
    }  # fmt: skip
    # Of 40 lengths, the 38th is the smallest that 95% of them do not exceed.
    assert HORIZONS["p95"](list(range(40, 0, -1))) == 38
    assert [horizon([9, 7, 3]) for horizon in HORIZONS.values()] == [3, 7, 9, 14]
    assert [horizon([1, 1]) for horizon in HORIZONS.values()] == [2, 2, 2, 4]


@pytest.mark.parametrize("name", HORIZONS)
def test_a_named_horizon_equals_that_length(name: str) -> None:
    by_name = ScheduleSpec(speedup=2, horizon=name).schedule(12, LENGTHS)
    assert by_name == ScheduleSpec(speedup=2, horizon=HORIZONS[name](LENGTHS)).schedule(12, LENGTHS)
    assert by_name.horizon == HORIZONS[name](LENGTHS)
    by_hand = ScheduleSpec(max_exit=8, min_exit=4, horizon=name).schedule(12, LENGTHS)
    assert by_hand.horizon == HORIZONS[name](LENGTHS)


def test_an_unknown_horizon_is_refused() -> None:
    message = "horizon must be a number of tokens or one of half, median, p95, double, got 'mean'"
    with pytest.raises(ValueError, match=message):
        ScheduleSpec(speedup=2, horizon="mean")
