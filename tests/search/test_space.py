"""Conversion of a trial's parameters to a plan, and search spaces that are refused."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.schedules.exit_schedule import DECAYS, layer_steps
from skiplab.schedules.schedule_solver import solve_schedule
from skiplab.search.space import InfeasibleScheduleError, SearchSpace, params_of, plan_of, schedule_of, training_of

LENGTHS = [8, 10, 12, 14, 20]
OPTIONS: dict[str, Any] = {
    "kind": ["skip", "terminate"],
    "decay": list(DECAYS),
    "rate": {"power": [0.5, 3.0], "step": [2, 5]},
    "max_exit": [2, 8],
    "min_exit": [1, 8],
    "warmup": [0, 3],
    "horizon": ["half", "double"],
}


class Drawn:
    """A trial that draws uniformly."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.names: list[str] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.names.append(name)
        return self.rng.choice(list(choices))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        assert log == (name == "learning_rate")
        self.names.append(name)
        return self.rng.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.names.append(name)
        return self.rng.randint(low, high)


@given(st.integers(0, 10**6))
def test_parameters_give_a_nested_plan_or_a_reason_why_not(seed: int) -> None:
    space, trial = SearchSpace(**OPTIONS), Drawn(seed)
    params = space.suggest(trial, LENGTHS)
    assert list(params) == trial.names
    lowest = params.get("min_exit", params["max_exit"])
    if lowest > params["max_exit"] or params.get("warmup", 0) > lowest:
        with pytest.raises(InfeasibleScheduleError) as caught:
            plan_of(params, 8, 30)
        assert caught.value.excess > 0
        return
    plan = plan_of(params, 8, 30)
    assert layer_steps(plan.plan, 8, 30) == list(plan.steps_L)
    schedule, kind = schedule_of(params, 8)
    assert [plan.plan(step) for step in range(31)] == [schedule.plan(step, kind) for step in range(31)]
    assert schedule_of(params_of(schedule, kind), 8) == (schedule, kind)


def test_only_parameters_with_an_effect_are_suggested() -> None:
    space = SearchSpace(**{**OPTIONS, "rate": {}, "decay": ["constant"], "kind": ["terminate"]})
    assert list(space.suggest(Drawn(0), LENGTHS)) == ["decay", "kind", "max_exit"]
    space = SearchSpace(**{**OPTIONS, "rate": {"power": [1, 2]}, "decay": ["power"], "kind": ["skip"]})
    assert set(space.suggest(Drawn(0), LENGTHS)) == {
        "decay", "kind", "max_exit", "warmup", "min_exit", "horizon", "power_rate",
    }  # fmt: skip


def test_named_horizons_are_computed_from_the_lengths() -> None:
    assert SearchSpace(**OPTIONS).horizons(LENGTHS) == (6, 24)
    with pytest.raises(ValueError, match=r"horizon is inverted: \[24, 6\]"):
        SearchSpace(**{**OPTIONS, "horizon": ["double", "half"]}).horizons(LENGTHS)


def test_the_solvers_answer_is_a_point_of_the_space() -> None:
    solved = solve_schedule(2.5, num_layers=8, lengths=LENGTHS)
    plan = plan_of(params_of(solved, "skip"), 8, 30)
    assert [plan.plan(step) for step in range(31)] == [solved.plan(step) for step in range(31)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": []}, "kind must list distinct values of skip, terminate"),
        ({"kind": ["jump"]}, r"kind must list .* got \['jump'\]"),
        ({"decay": ["linear", "linear"]}, "decay must list distinct values"),
        ({"max_exit": [5, 2]}, r"max_exit is inverted: \[5, 2\]"),
        ({"min_exit": [2]}, "min_exit takes a range of two numbers"),
        ({"min_exit": ["a", 2]}, "min_exit takes a range of two numbers"),
        ({"warmup": []}, "warmup takes a range"),
        ({"rate": {"power": [3, 1]}}, "rate.power is inverted"),
        ({"rate": {"power": [0.0, 1]}}, "rate.power must begin at 0.001"),
        ({"decay": ["linear"], "rate": {"power": [1, 2]}}, "rate is for the decays of the space"),
        ({"horizon": ["medium", 3]}, "horizon takes two ends, .*half, median, p95, double"),
        ({"horizon": [9, 3]}, "horizon is inverted"),
    ],
)  # fmt: skip
def test_bad_spaces(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace(**{**OPTIONS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_exit": [2, 9]}, "between 1 and the 8 layers"),
        ({"min_exit": [0, 3]}, "between 1 and the 8 layers"),
        ({"max_exit": [2, 3], "min_exit": [4, 5]}, "has no schedule"),
        ({"max_exit": [1, 2], "warmup": [3, 4]}, "has no schedule"),
    ],
)  # fmt: skip
def test_spaces_that_do_not_fit_the_backbone_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace(**{**OPTIONS, **change}).check(8)


@given(st.integers(0, 10**6))
def test_training_options_are_suggested_if_the_space_has_them(seed: int) -> None:
    ranges = {"learning_rate": [1e-4, 1e-2], "distill": [0.0, 2.0]}
    space, trial = SearchSpace(**OPTIONS, training=ranges), Drawn(seed)
    params = space.suggest(trial, LENGTHS)
    assert trial.names[-2:] == ["learning_rate", "distill"]
    training = training_of(params)
    assert 1e-4 <= training["learning_rate"] <= 1e-2
    assert training["distill"] == {"logits": params["distill"]}
    assert training_of(SearchSpace(**OPTIONS).suggest(Drawn(seed), LENGTHS)) == {}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"epochs": [1, 2]}, "training takes learning_rate and distill, got 'epochs'"),
        ({"learning_rate": [0.0, 1e-2]}, "training.learning_rate must begin above 0"),
        ({"distill": [1.0, 0.5]}, "training.distill is inverted"),
    ],
)
def test_invalid_training_ranges_are_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace(**OPTIONS, training=training)
