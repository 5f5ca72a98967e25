"""The choice among trials."""

from skiplab.search.pareto import Scored, best_at, fastest_with


def test_choosing() -> None:
    points = [Scored(0, 1.0, 2.0), Scored(1, 2.0, 3.0), Scored(2, 2.0, 2.99), Scored(3, 5.0, 4.0)]
    assert best_at(points, "minimize", 2.0) == points[0]
    assert best_at(points, "minimize", 3.0) == points[1], "the faster of equals; half a percent below counts as met"
    assert best_at(points, "minimize", 4.5) is None
    assert fastest_with(points, "minimize", 2.0) == points[1]
    assert fastest_with(points, "minimize", 0.5) is None
    assert fastest_with(points, "maximize", 2.0) == points[3]
