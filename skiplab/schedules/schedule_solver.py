"""The solver from a target speedup to a schedule, and the specification of a schedule. Pure Python."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from skiplab.schedules.bisection import bisect
from skiplab.schedules.exit_schedule import HORIZONS, ExitSchedule, decode_steps, expected_depth, median_length

# Tolerance: largest relative deviation from a target speedup.
_TOLERANCE = 0.05


def solve_schedule(
    target_speedup: float,
    *,
    num_layers: int,
    lengths: Sequence[int],
    warmup: int = 1,
    decay: str = "linear",
    rate: float | None = None,
    horizon: int | None = None,
    spread: float = 1 / 3,
) -> ExitSchedule:
    """The schedule whose layer speedup over outputs of these lengths is `target_speedup`, within 5%.

    The layer speedup is `L` over the mean depth of all tokens after the first. Exit layers are
    `c (1 + spread)` and `c (1 - spread)`, cut to what the warm-up and the backbone allow, with `c`
    found by bisection.

    Args:
        target_speedup: at least 1.
        lengths: generated tokens per output, end-of-sequence included.
        horizon: None takes the median length (the paper's choice).
        spread: half the exit range, relative to its middle, in [0, 1]; a constant decay has none.

    Raises:
        ValueError: no such schedule reaches the target; the message gives the range.
    """
    floor = _check_reach(target_speedup, num_layers=num_layers, warmup=warmup, spread=spread)
    reach = decode_steps(lengths)
    if horizon is None:
        horizon = median_length(lengths)
    half_range = 0.0 if decay == "constant" else spread
    lowest = ExitSchedule(
        num_layers=num_layers, max_exit=floor, min_exit=floor, horizon=horizon, warmup=warmup,
        decay=decay, rate=rate,
    )  # fmt: skip

    def speedup(middle: float) -> float:
        return num_layers / expected_depth(_around(middle, half_range, lowest).depth, reach)

    # Depth is rounded, so the speedup is a falling staircase in `middle`: bisect to the stair's edge.
    low, high = floor / (1 + half_range), num_layers / (1 - half_range) if half_range < 1 else 1e6
    low, high = bisect(lambda middle: speedup(middle) > target_speedup, low, high, halvings=60)
    best = min(low, high, key=lambda middle: abs(speedup(middle) - target_speedup))
    if abs(speedup(best) / target_speedup - 1) > _TOLERANCE:
        raise ValueError(
            f"target speedup {target_speedup:g} cannot be met with a {decay} decay on {num_layers} layers: the "
            f"nearest are {speedup(low):.3g} and {speedup(high):.3g}; choose one of these or another decay"
        )
    return _around(best, half_range, lowest)


def _check_reach(target_speedup: float, *, num_layers: int, warmup: int, spread: float) -> int:
    """The least depth that a schedule may have: one layer above the warm-up.

    Raises:
        ValueError: a value is out of its range, or the target out of reach.
    """
    if not 0 <= spread <= 1:
        raise ValueError(f"spread must lie in [0, 1], got {spread}")
    if not 0 <= warmup <= num_layers:
        raise ValueError(f"warmup must lie between 0 and the {num_layers} layers, got {warmup}")
    floor = min(warmup + 1, num_layers)
    fastest = num_layers / floor
    if not 1 <= target_speedup <= fastest:
        raise ValueError(
            f"target speedup {target_speedup:g} cannot be reached: {num_layers} layers with a warm-up of "
            f"{warmup} allow speedups of 1 to {fastest:g} (at least one layer above the warm-up runs)"
        )
    return floor


def _around(middle: float, half_range: float, lowest: ExitSchedule) -> ExitSchedule:
    """The schedule with exit layers around a middle, cut to what `lowest` and the backbone allow."""

    def clip(exit_layer: float) -> float:
        return min(float(lowest.num_layers), max(float(lowest.min_exit), exit_layer))

    return replace(lowest, max_exit=clip(middle * (1 + half_range)), min_exit=clip(middle * (1 - half_range)))


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """How a user asks for a schedule: by target speedup, or by exit layers.

    Args:
        speedup: target layer speedup, from which `solve_schedule` finds the exit layers.
        max_exit, min_exit: exit layers given by hand instead.
        warmup, decay, rate: as in `ExitSchedule`.
        horizon: as in `ExitSchedule`, or a length by name in `HORIZONS`; None is the median.
        spread: as in `solve_schedule`.

    Raises:
        ValueError: neither, or both, of speedup and exit layers are given, or the horizon's name is unknown.
    """

    speedup: float | None = None
    max_exit: float | None = None
    min_exit: float | None = None
    warmup: int = 1
    decay: str = "linear"
    rate: float | None = None
    horizon: int | str | None = None
    spread: float = 1 / 3

    def __post_init__(self) -> None:
        if isinstance(self.horizon, str) and self.horizon not in HORIZONS:
            raise ValueError(
                f"horizon must be a number of tokens or one of {', '.join(HORIZONS)}, got {self.horizon!r}"
            )
        if len({self.speedup is None, self.max_exit is not None, self.min_exit is not None}) > 1:
            raise ValueError(
                f"give either speedup, or max_exit and min_exit; got speedup={self.speedup}, "
                f"max_exit={self.max_exit}, min_exit={self.min_exit}"
            )

    def schedule(self, num_layers: int, lengths: Sequence[int]) -> ExitSchedule:
        """The schedule for a backbone of `num_layers` whose outputs have these lengths, in tokens."""
        horizon = self.horizon
        if horizon is None or isinstance(horizon, str):
            horizon = HORIZONS[horizon or "median"](lengths)
        if self.max_exit is None or self.min_exit is None:
            assert self.speedup is not None
            return solve_schedule(
                self.speedup, num_layers=num_layers, lengths=lengths, warmup=self.warmup, decay=self.decay,
                rate=self.rate, horizon=horizon, spread=self.spread,
            )  # fmt: skip
        return ExitSchedule(
            num_layers=num_layers, max_exit=self.max_exit, min_exit=self.min_exit, warmup=self.warmup,
            decay=self.decay, rate=self.rate, horizon=horizon,
        )  # fmt: skip

    def __str__(self) -> str:
        """Short name, of what differs from the defaults: `3x`, `8 to 4 layers`, `3x cosine`, `3x warmup 2`."""
        named = [f"{self.max_exit:g} to {self.min_exit:g} layers" if self.speedup is None else f"{self.speedup:g}x"]
        named += [self.decay] if self.decay != "linear" else []
        named += [f"warmup {self.warmup}"] if self.warmup != 1 else []
        named += [f"horizon {self.horizon}"] if self.horizon is not None else []
        return " ".join(named)
