"""Trials of two objectives, quality against speed: the front, its hypervolume, and choosing from it.

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
    """A key by which smaller is better."""
    return (lambda value: value) if sense == "minimize" else (lambda value: -value)


def front(points: Sequence[Scored], sense: Sense) -> list[Scored]:
    """The points that no other matches in both quality and speedup and beats in one; slowest first, no twins."""
    cost = better(sense)
    found: list[Scored] = []
    for point in sorted(points, key=lambda point: (-point.speedup, cost(point.quality), point.number)):
        if not found or cost(point.quality) < cost(found[-1].quality):
            found.append(point)
    return found[::-1]


def hypervolume(points: Sequence[Scored], sense: Sense, worst: Scored) -> float:
    """Area that the points dominate, up to a worst point; points beyond that add nothing."""
    cost = better(sense)
    area, ceiling = 0.0, cost(worst.quality)
    for point in reversed(front(points, sense)):
        width = point.speedup - worst.speedup
        if width > 0 and cost(point.quality) < ceiling:
            area += width * (ceiling - cost(point.quality))
            ceiling = cost(point.quality)
    return area


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
