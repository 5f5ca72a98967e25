"""Rounds of interleaved timing: how many are run, and when they are enough."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The fewest rounds after which interleaved timing may end early.
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Round:
    """One system's times over a whole workload, in seconds."""

    prefill: float
    decode: float
    total: float
    step_ms: list[float]


def steady(rounds: Sequence[Sequence[float]], narrow: float) -> bool:
    """Whether the times of all systems are settled: after `FEWEST_ROUNDS` or more, the quartiles of each system's share
    of a round are at most `narrow` of their median apart.

    Shares, because a machine that is slower in one round is slower for all systems.

    Args:
        rounds: by round, the seconds of each system.
    """
    if len(rounds) < FEWEST_ROUNDS:
        return False
    shares = [[seconds / sum(one) for seconds in one] for one in rounds]
    columns = [statistics.quantiles(column, n=4, method="inclusive") for column in zip(*shares, strict=True)]
    return all(high - low <= narrow * middle for low, middle, high in columns)


@dataclass(frozen=True)
class Rounds:
    """How often all systems are timed.

    Attributes:
        most: rounds after the warm-up.
        warmup: rounds that do not count.
        narrow: rounds end early once the decode times are `steady` by this; None runs all.
    """

    most: int
    warmup: int = 1
    narrow: float | None = None

    def enough(self, measured: Iterable[Sequence[Round]]) -> bool:
        """Whether the rounds of all systems so far are enough."""
        by_system = [[one.decode for one in runs] for runs in measured]
        return self.narrow is not None and bool(by_system) and steady(list(zip(*by_system, strict=True)), self.narrow)
