"""When rounds of timing are enough."""

from skiplab.benchmarking.rounds import steady


def test_times_are_steady_after_five_rounds_with_narrow_quartiles() -> None:
    calm = [[1.0, 2.0]] * 5
    assert steady(calm, 0.05)
    assert not steady(calm[:4], 0.05)
    # A machine that is twice as slow in some rounds is slower for all systems.
    assert steady([[1.0, 2.0], [2.0, 4.0], [1.0, 2.0], [2.0, 4.0], [1.0, 2.0]], 0.05)
    wide = [[1.0, 2.0], [1.0, 2.4], [1.0, 2.0], [1.0, 2.4], [1.0, 1.7]]
    assert not steady(wide, 0.05)
    assert steady(wide, 0.5)
