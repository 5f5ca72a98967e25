"""Intervals over seeds and items, and paired differences."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.evaluation.significance import Difference, holm, paired_difference, paired_differences, seed_item_interval


def test_interval_of_equal_scores_is_their_value() -> None:
    assert seed_item_interval([[0.5] * 6] * 3) == (0.5, 0.5)


def test_interval_takes_two_items() -> None:
    assert seed_item_interval([[0.1], [0.9]]) is None
    assert seed_item_interval(np.zeros((2, 0))) is None
    assert seed_item_interval([[0.1, 0.9]]) is not None


def test_interval_of_one_seed_is_that_of_its_items() -> None:
    # The mean of 100 items of standard deviation 1/2: 1.96 standard errors are 0.098.
    assert seed_item_interval([[0.0, 1.0] * 50]) == pytest.approx((0.402, 0.598), abs=0.03)


def test_interval_spans_seeds_that_differ() -> None:
    # Two seeds with the same score on all items: a resample has one seed twice, the other twice, or both.
    assert seed_item_interval([[0.0] * 5, [1.0] * 5]) == (0.0, 1.0)


def test_interval_is_reproducible() -> None:
    scores = np.random.default_rng(3).random((3, 20))
    assert seed_item_interval(scores) == seed_item_interval(scores)


def test_interval_covers_the_expected_mean_over_seeds_and_items() -> None:
    rng = np.random.default_rng(0)
    seeds = items = 15
    both = items_alone = 0
    for _ in range(100):
        scores = rng.normal(size=(seeds, 1)) + rng.normal(size=items) + rng.normal(size=(seeds, items))
        both += holds(seed_item_interval(scores), 0)
        items_alone += holds(seed_item_interval(scores.mean(axis=0, keepdims=True)), 0)
    # Nominally 95; the standard error of the count is 2.2.
    assert both >= 88
    assert items_alone < 85


def holds(interval: tuple[float, float] | None, value: float) -> bool:
    assert interval is not None
    return interval[0] <= value <= interval[1]


def test_difference_of_equal_scores() -> None:
    scores = np.random.default_rng(0).random((3, 8))
    assert paired_difference(scores, scores) == Difference(0.0, 0.0, 0.0, 1.0)


def test_a_difference_due_to_rounding_counts_as_zero() -> None:
    assert paired_difference([[0.1 + 0.2] * 20], [[0.3] * 20]).p_value == 1.0


def test_difference_of_two_items_by_hand() -> None:
    # Sums over all sign flips: 3, -1, 1, -3, so half of them are as far from 0 as 3.
    found = paired_difference([[3.0, 5.0]], [[2.0, 3.0]])
    assert found.mean == 1.5
    assert (found.low, found.high) == (1.0, 2.0)
    assert found.p_value == pytest.approx(0.5, abs=0.02)


def test_flips_with_equal_sums_count_as_equal() -> None:
    # Only the two flips with equal signs are as extreme, 2 of 2^5, although sums of 0.7 differ by rounding.
    assert paired_difference([[0.7] * 5], [[0.0] * 5]).p_value == pytest.approx(2 / 32, abs=0.01)


def test_swapping_the_sides_changes_the_sign_of_a_difference() -> None:
    rng = np.random.default_rng(1)
    own, other = rng.random((2, 3, 30))
    one, two = paired_difference(own, other), paired_difference(other, own)
    assert (one.mean, one.low, one.high) == pytest.approx((-two.mean, -two.high, -two.low))
    assert one.p_value == two.p_value


def test_many_pairs_give_the_results_of_each_pair_alone() -> None:
    rng = np.random.default_rng(2)
    shapes = [(1, 30), (3, 30), (1, 8), (2, 30)]
    pairs = [(rng.random(shape), rng.random(shape)) for shape in shapes]
    assert paired_differences(pairs) == [paired_difference(*pair) for pair in pairs]
    assert paired_differences([]) == []


def test_few_items_are_tested_with_all_sign_flips() -> None:
    # Of the 8 signed sums of 1, 2 and 4, two have magnitude 7 and two have magnitude 5.
    assert paired_difference([[1.0, 2.0, 4.0]], [[0.0] * 3]).p_value == 2 / 8
    assert paired_difference([[-1.0, 2.0, 4.0]], [[0.0] * 3]).p_value == 4 / 8


def test_shift_is_detected_through_items_that_vary_more() -> None:
    rng = np.random.default_rng(0)
    other = rng.normal(scale=5, size=40) + rng.normal(scale=0.3, size=(3, 40))
    found = paired_difference(other + 0.4 + rng.normal(scale=0.3, size=(3, 40)), other)
    assert 0.2 < found.low < found.mean < found.high < 0.6
    assert found.p_value == 1 / 10_000


def test_without_a_shift_p_is_uniform_and_the_interval_covers_zero() -> None:
    rng = np.random.default_rng(0)
    found = [paired_difference(*rng.normal(size=(2, 1, 20))) for _ in range(150)]
    p_values = np.array([difference.p_value for difference in found])
    for level in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert (p_values <= level).mean() == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 150))
    # A percentile interval of 20 items is a little narrow.
    assert np.mean([difference.low <= 0 <= difference.high for difference in found]) > 0.87


def test_the_p_value_is_over_items_and_the_interval_also_over_seeds() -> None:
    # One seed gains on every item, the other loses on every item, by a little less.
    found = paired_difference([[1.0] * 10, [-0.8] * 10], np.zeros((2, 10)))
    assert found.p_value < 0.01
    assert (found.low, found.mean, found.high) == pytest.approx((-0.8, 0.1, 1.0))


@pytest.mark.parametrize("swap", [False, True])
def test_single_seed_is_repeated(swap: bool) -> None:
    rng = np.random.default_rng(0)
    several, single = rng.random((3, 12)), rng.random((1, 12))
    pairs = [(several, single), (several, np.repeat(single, 3, axis=0))]
    once, repeated = (paired_difference(*(pair[::-1] if swap else pair)) for pair in pairs)
    assert once == repeated


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        (lambda: paired_difference(np.zeros((2, 5)), np.zeros((2, 6))), "own have 5 items, other 6"),
        (lambda: paired_difference(np.zeros((2, 5)), np.zeros((3, 5))), "own have 2 seeds, other 3"),
        (lambda: paired_difference(np.zeros((2, 1)), np.zeros((2, 1))), "at least two items, got 1"),
        (lambda: paired_difference(np.zeros((1, 5)), np.zeros(5)), r"^other scores must be an array .* \(5,\)"),
        (lambda: paired_difference(np.zeros((0, 5)), np.zeros((1, 5))), r"^own scores .* got shape \(0, 5\)"),
        (lambda: paired_difference([[0, np.nan]], [[0, 1]]), "^own scores must be finite, got 1 that are not"),
        (lambda: seed_item_interval([1.0, 2.0]), r"^scores must be an array by seed and item .* \(2,\)"),
    ],
)
def test_invalid_scores_are_refused(compare: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare()


def test_holm_multiplies_by_the_number_of_remaining_tests_and_keeps_the_order() -> None:
    # By hand: 0.01 x 4, 0.015 x 3, 0.03 x 2, 0.04 x 1, none below the one before.
    assert holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_p_value_and_bonferroni(p_values: list[float]) -> None:
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw <= adjusted <= min(1.0, len(p_values) * raw)
