"""Which exit schedules a search may try, and from a trial's parameters to a plan.

Pure Python: a trial is anything with Optuna's `suggest_*` methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final, get_args

from skiplab.schedules.exit_schedule import DECAYS, HORIZONS, ExitSchedule, PlanKind
from skiplab.schedules.nested_plan import NestedPlan


class Suggests(Protocol):
    """The part of Optuna's trial interface that is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...


class InfeasibleScheduleError(ValueError):
    """Parameters that make no schedule.

    Attributes:
        excess: violation in layers, above 0.
    """

    def __init__(self, message: str, excess: float) -> None:
        super().__init__(message)
        self.excess = excess


TRAINING = ("learning_rate", "distill")


@final
@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Ranges, both ends included; a range of one value fixes it.

    Args:
        kind: plan kinds, `skip` and `terminate`.
        decay: names in `schedule.DECAYS`.
        rate: by decay, the range of its parameter; a decay that is not named keeps its default.
        max_exit: depths at the first step.
        min_exit: depths at the horizon.
        warmup: warm-up layers of a skip plan.
        horizon: steps; an end may be a name in `schedule.HORIZONS`.
        training: ranges of options of each schedule's fine-tuning: `learning_rate`, its peak, and `distill`,
            the weight of the full model's logits. Empty searches schedules alone.

    Raises:
        ValueError: a range is empty or inverted, or a name unknown.
    """

    kind: Sequence[PlanKind]
    decay: Sequence[str]
    rate: Mapping[str, Sequence[float]]
    max_exit: Sequence[float]
    min_exit: Sequence[float]
    warmup: Sequence[int]
    horizon: Sequence[int | str]
    training: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("kind", get_args(PlanKind)), ("decay", tuple(DECAYS))):
            values = list(getattr(self, name))
            if not values or len(set(values)) < len(values) or not set(values) <= set(known):
                raise ValueError(f"search.space.{name} must list distinct values of {', '.join(known)}, got {values}")
        for name in ("max_exit", "min_exit", "warmup"):
            _check_range(name, getattr(self, name))
        for decay, ends in self.rate.items():
            if decay not in self.decay:
                raise ValueError(f"search.space.rate is for the decays of the space, {self.decay}; got {decay!r}")
            _check_range(f"rate.{decay}", ends)
            if ends[0] < DECAYS[decay].lowest_rate:
                raise ValueError(
                    f"search.space.rate.{decay} must begin at {DECAYS[decay].lowest_rate:g} or above, got {ends}"
                )
        for name, ends in self.training.items():
            if name not in TRAINING:
                raise ValueError(f"search.space.training takes {' and '.join(TRAINING)}, got {name!r}")
            _check_range(f"training.{name}", ends)
            if ends[0] < 0 or (name == "learning_rate" and ends[0] == 0):
                raise ValueError(
                    f"search.space.training.{name} must begin above 0 (distill: 0 or above), got {list(ends)}"
                )
        if len(self.horizon) != 2 or any(isinstance(end, str) and end not in HORIZONS for end in self.horizon):
            raise ValueError(
                f"search.space.horizon takes two ends, each a number of steps or one of {', '.join(HORIZONS)}; got "
                f"{list(self.horizon)}"
            )
        if all(isinstance(end, int) for end in self.horizon):
            _check_range("horizon", self.horizon)  # type: ignore[arg-type]

    def check(self, num_layers: int) -> None:
        """Refuse a space that does not fit a backbone.

        Raises:
            ValueError: the message says what is out of range, or that no schedule is feasible.
        """
        if not (self.min_exit[0] >= 1 and self.max_exit[1] <= num_layers and self.warmup[0] >= 0):
            raise ValueError(
                f"search.space must lie between 1 and the {num_layers} layers of the backbone, its warmup at 0 or "
                f"above; got min_exit={list(self.min_exit)}, max_exit={list(self.max_exit)}, "
                f"warmup={list(self.warmup)}"
            )
        if self.min_exit[0] > self.max_exit[1] or ("skip" in self.kind and self.warmup[0] > self.max_exit[1]):
            raise ValueError(
                f"search.space has no schedule: min_exit={list(self.min_exit)} and warmup={list(self.warmup)} begin "
                f"above max_exit={list(self.max_exit)}"
            )

    def suggest(self, trial: Suggests, lengths: Sequence[int]) -> dict[str, Any]:
        """A trial's parameters; parameters without effect given the others are omitted.

        Args:
            lengths: of the outputs, for the horizons by name.
        """
        return self._suggest_schedule(trial, lengths) | {
            name: trial.suggest_float(name, low, high, log=name == "learning_rate")
            for name, (low, high) in self.training.items()
        }

    def _suggest_schedule(self, trial: Suggests, lengths: Sequence[int]) -> dict[str, Any]:
        found: dict[str, Any] = {"decay": trial.suggest_categorical("decay", list(self.decay))}
        found["kind"] = trial.suggest_categorical("kind", list(self.kind))
        found["max_exit"] = trial.suggest_float("max_exit", *map(float, self.max_exit))
        if found["kind"] == "skip":
            found["warmup"] = trial.suggest_int("warmup", *self.warmup)
        if found["decay"] == "constant":
            return found
        found["min_exit"] = trial.suggest_float("min_exit", *map(float, self.min_exit))
        found["horizon"] = trial.suggest_int("horizon", *self.horizons(lengths))
        if found["decay"] in self.rate:
            low, high = self.rate[found["decay"]]
            found[f"{found['decay']}_rate"] = trial.suggest_float(f"{found['decay']}_rate", low, high)
        return found

    def horizons(self, lengths: Sequence[int]) -> tuple[int, int]:
        """The ends of the horizon in steps.

        Raises:
            ValueError: they are inverted for these lengths.
        """
        low, high = (HORIZONS[end](lengths) if isinstance(end, str) else int(end) for end in self.horizon)
        _check_range("horizon", (low, high))
        return low, high

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            name: {key: list(ends) for key, ends in value.items()} if isinstance(value, Mapping) else list(value)
            for name, value in vars(self).items()
        }


def schedule_of(params: Mapping[str, Any], num_layers: int) -> tuple[ExitSchedule, PlanKind]:
    """The schedule that a trial's parameters mean.

    Raises:
        InfeasibleScheduleError: the exits are inverted, or leave no room for the warm-up.
    """
    decay, max_exit = params["decay"], params["max_exit"]
    min_exit, warmup = params.get("min_exit", max_exit), params.get("warmup", 0)
    if min_exit > max_exit:
        raise InfeasibleScheduleError(f"min_exit {min_exit:.2f} is above max_exit {max_exit:.2f}", min_exit - max_exit)
    if warmup > min_exit:
        raise InfeasibleScheduleError(f"warmup {warmup} is above min_exit {min_exit:.2f}", warmup - min_exit)
    schedule = ExitSchedule(
        num_layers=num_layers, max_exit=max_exit, min_exit=min_exit, horizon=params.get("horizon", 2),
        warmup=warmup, decay=decay, rate=params.get(f"{decay}_rate"),
    )  # fmt: skip
    return schedule, params["kind"]


def plan_of(params: Mapping[str, Any], num_layers: int, steps: int) -> NestedPlan:
    """The plan of a trial's parameters over steps 0 to `steps`.

    Raises:
        InfeasibleScheduleError: as `schedule_of`.
    """
    schedule, kind = schedule_of(params, num_layers)
    return NestedPlan.of(lambda step: schedule.plan(step, kind), num_layers, steps)


def training_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """The training options among a trial's parameters, as a method's keywords."""
    found: dict[str, Any] = {}
    if "learning_rate" in params:
        found["learning_rate"] = params["learning_rate"]
    if params.get("distill"):
        found["distill"] = {"logits": params["distill"]}
    return found


def params_of(schedule: ExitSchedule, kind: PlanKind) -> dict[str, Any]:
    """The parameters of a schedule: the inverse of `schedule_of`."""
    found: dict[str, Any] = {"decay": schedule.decay, "kind": kind, "max_exit": schedule.max_exit}
    if kind == "skip":
        found["warmup"] = schedule.warmup
    if schedule.decay != "constant":
        found |= {"min_exit": schedule.min_exit, "horizon": schedule.horizon}
        if schedule.rate is not None:
            found[f"{schedule.decay}_rate"] = schedule.rate
    return found


def _check_range(name: str, ends: Sequence[float]) -> None:
    if len(ends) != 2 or any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise ValueError(f"search.space.{name} takes a range of two numbers, got {list(ends)}")
    if ends[0] > ends[1]:
        raise ValueError(f"search.space.{name} is inverted: {list(ends)} must ascend")
