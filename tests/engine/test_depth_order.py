"""The order of rows by depth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.engine.depth_order import LayerRun, check_chain, exchanges, layer_runs


def exchanged(depths: list[int], pairs: list[tuple[int, int]]) -> list[int]:
    found = list(depths)
    for one, other in pairs:
        found[one], found[other] = found[other], found[one]
    return found


@given(st.lists(st.integers(1, 6), max_size=20))
def test_exchanges_sort_and_each_puts_a_row_in_its_place(depths: list[int]) -> None:
    pairs = exchanges(depths)
    assert exchanged(depths, pairs) == sorted(depths)
    misplaced = sum(have != want for have, want in zip(depths, sorted(depths), strict=True))
    assert len(pairs) <= max(0, misplaced - 1)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.data())
def test_a_row_needs_at_most_one_exchange_per_depth_that_it_passes(depths: list[int], data: st.DataObject) -> None:
    depths.sort()
    row = data.draw(st.integers(0, len(depths) - 1))
    before, after = depths[row], data.draw(st.integers(1, 9))
    depths[row] = after
    low, high = sorted((before, after))
    passed = {depth for depth in depths if low <= depth <= high} | {before}
    assert len(exchanges(depths)) <= len(passed)


def test_rows_of_equal_depth_stay_where_they_are() -> None:
    assert exchanges([2, 2, 3, 3, 3]) == []
    assert exchanges([]) == []


def test_layers_run_on_the_first_rows() -> None:
    plans = [(0, 1, 2, 3, 4, 5), (0, 4, 5), (0, 4, 5), (0, 5)]
    assert layer_runs(plans) == [
        LayerRun((0,), 4), LayerRun((1, 2, 3), 1), LayerRun((4,), 3), LayerRun((5,), 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ([(0, 1, 2), (0, 5)], r"a subset of each deeper one, got \[0, 5\] and \[0, 1, 2\]"),
        ([(0, 5), (0, 4)], "got"),
        ([(0,), (0, 5), (0, 4, 5), (1, 2, 4, 5)], r"got \[0, 4, 5\] and \[1, 2, 4, 5\]"),
    ],
)
def test_plans_that_are_not_nested_are_refused(plans: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_chain(plans)


def test_nested_plans_in_any_order_are_a_chain() -> None:
    check_chain([(0, 4, 5), (0,), (0, 5), (0, 5)])
