"""Trials of two objectives, quality against speed, and choosing from them.

Pure Python. Both objectives are given with a sense, `minimize` or `maximize`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from skiplab.utils.figures import Sense


@final
@dataclass(frozen=True)
class Scored:
    """One finished trial.

    Attributes:
        number: of the trial.
        quality: the figure that a search optimizes against speed.
        speedup: its layer or decode speedup.
    """

    number: int
    quality: float
    speedup: float


def better(sense: Sense) -> Callable[[float], float]:
    """A sort key: smaller is better."""
    return (lambda value: value) if sense == "minimize" else (lambda value: -value)


def best_at(points: Sequence[Scored], sense: Sense, speedup: float, tolerance: float = 0.005) -> Scored | None:
    """The best quality among points at least so fast, the faster of equals; None if there are none.

    Args:
        tolerance: relative miss of the speedup that counts as meeting it.
    """
    cost = better(sense)
    fast = [point for point in points if point.speedup >= speedup * (1 - tolerance)]
    return min(fast, key=lambda point: (cost(point.quality), -point.speedup, point.number), default=None)


def fastest_with(points: Sequence[Scored], sense: Sense, quality: float) -> Scored | None:
    """The fastest point whose quality is at least as good, the better of equals; None if there is none."""
    cost = better(sense)
    good = [point for point in points if cost(point.quality) <= cost(quality)]
    return min(good, key=lambda point: (-point.speedup, cost(point.quality), point.number), default=None)
