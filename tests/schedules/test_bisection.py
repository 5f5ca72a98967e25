"""Bisection against its definition."""

from hypothesis import given
from hypothesis import strategies as st

from skiplab.schedules.bisection import bisect

PLACES = st.floats(-1e3, 1e3)


@given(PLACES, PLACES, PLACES, st.integers(0, 80))
def test_the_interval_contains_the_turning_point(first: float, second: float, turn: float, halvings: int) -> None:
    low, high = sorted((first, second))
    left, right = bisect(lambda x: x < turn, low, high, halvings=halvings)
    assert low <= left <= right <= high
    assert left == low or left < turn
    assert right == high or right >= turn
    if low <= turn < high:
        assert left <= turn <= right


@given(st.integers(0, 1024), st.integers(0, 10))
def test_each_halving_halves_the_interval(turn: int, halvings: int) -> None:
    asked: list[float] = []

    def holds(x: float) -> bool:
        asked.append(x)
        return x < turn

    low, high = bisect(holds, 0.0, 1024.0, halvings=halvings)
    assert high - low == 1024 / 2**halvings
    assert len(asked) == halvings
    assert set(asked) <= {float(x) for x in range(1, 1024)}


def test_a_constant_predicate_leaves_an_interval_at_the_end() -> None:
    assert bisect(lambda x: True, 0.0, 1.0, halvings=2) == (0.75, 1.0)
    assert bisect(lambda x: False, 0.0, 1.0, halvings=2) == (0.0, 0.25)
