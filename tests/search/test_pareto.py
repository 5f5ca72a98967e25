"""Fronts, hypervolume and choosing, against definitions."""

from hypothesis import given
from hypothesis import strategies as st

from skiplab.search.pareto import Scored, best_at, fastest_with, front, hypervolume

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=12).map(
    lambda pairs: [Scored(number, float(quality), float(speed)) for number, (quality, speed) in enumerate(pairs)]
)


def dominates(one: Scored, other: Scored) -> bool:
    at_least = one.quality <= other.quality and one.speedup >= other.speedup
    return at_least and (one.quality, one.speedup) != (other.quality, other.speedup)


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points: list[Scored]) -> None:
    found = front(points, "minimize")
    expected = {(p.quality, p.speedup) for p in points if not any(dominates(other, p) for other in points)}
    assert {(p.quality, p.speedup) for p in found} == expected
    assert len(found) == len(expected)
    assert found == sorted(found, key=lambda point: point.speedup)


@given(POINTS)
def test_hypervolume_counts_dominated_cells(points: list[Scored]) -> None:
    worst = Scored(-1, 6.0, 1.0)
    cells = [
        (quality, speed)
        for quality in range(6)
        for speed in range(1, 6)
        if any(point.quality <= quality and point.speedup >= speed + 1 for point in points)
    ]
    assert hypervolume(points, "minimize", worst) == len(cells)


@given(POINTS)
def test_senses_mirror_each_other(points: list[Scored]) -> None:
    mirrored = [Scored(p.number, -p.quality, p.speedup) for p in points]
    assert [p.number for p in front(points, "minimize")] == [p.number for p in front(mirrored, "maximize")]


def test_choosing() -> None:
    points = [Scored(0, 1.0, 2.0), Scored(1, 2.0, 3.0), Scored(2, 2.0, 2.99), Scored(3, 5.0, 4.0)]
    assert best_at(points, "minimize", 2.0) == points[0]
    assert best_at(points, "minimize", 3.0) == points[1], "the faster of equals, and half a percent counts as met"
    assert best_at(points, "minimize", 4.5) is None
    assert fastest_with(points, "minimize", 2.0) == points[1]
    assert fastest_with(points, "minimize", 0.5) is None
    assert fastest_with(points, "maximize", 2.0) == points[3]
