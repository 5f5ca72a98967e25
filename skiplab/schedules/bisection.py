"""Bisection of a predicate that turns from true to false. Pure Python."""

from collections.abc import Callable


def bisect(holds: Callable[[float], bool], low: float, high: float, *, halvings: int) -> tuple[float, float]:
    """Narrow an interval to where a predicate turns from true to false.

    The predicate is never evaluated at the ends: it counts as true at `low` and as false at `high`.

    Args:
        holds: true up to some point of the interval, and false beyond it.
        low, high: ends of the interval, in this order.
        halvings: number of evaluations, each at the middle of the remaining interval.

    Returns:
        The ends of what is left. `holds` is true at the first and false at the second, except where one is an end of
        the given interval.
    """
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high
