"""Differences between methods and intervals of scores, over training seeds and test items, by `scipy.stats`.

Arrays are indexed by seed (S) and item (I); resamples by R, pairs of settings by K. The interval is that of the
pigeonhole bootstrap (Owen 2007, doi 10.1214/07-AOAS122), which resamples seeds and items independently of each other.
Resampling S seeds shows only (S - 1) / S of the variance between them: with few seeds the interval is too narrow, with
one it is that of the items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

_RESAMPLES = 2000
_FLIPS = 9999
# Resamples and flips held in memory at a time.
_BATCH = 500


@dataclass(frozen=True)
class Difference:
    """A mean difference, its 95% interval and the p-value of no difference; see `paired_difference`."""

    mean: float
    low: float
    high: float
    p_value: float


def seed_item_interval(scores_SI: "ArrayLike") -> tuple[float, float] | None:
    """Bootstrap 95% percentile interval of the mean over seeds and items; None for fewer than two items.

    The one interval of every mean of item scores, in result rows (one seed) and in summaries.

    Raises:
        ValueError: the scores are not finite numbers by seed and item.
    """
    scores = _matrix("scores", scores_SI)
    return _interval(scores) if scores.shape[1] >= 2 else None


def paired_difference(own_SI: "ArrayLike", other_SI: "ArrayLike") -> Difference:
    """`paired_differences` of one pair."""
    return paired_differences([(own_SI, other_SI)])[0]


def paired_differences(pairs: "Sequence[tuple[ArrayLike, ArrayLike]]") -> list[Difference]:
    """Means of own minus other, paired by seed and by item, with their intervals and tests.

    The interval is that of `seed_item_interval` of the differences. The p-value is of a two-sided paired sign-flip
    permutation test over items, on differences averaged over seeds: it takes the seeds as given, so it does not
    cover their choice, which the interval does. It is exact where there are fewer ways to flip than flips are drawn.

    Args:
        pairs: own and other scores of the same items by the same seeds; one with a single seed (a method without
            training, say) is repeated for all the other's seeds.

    Raises:
        ValueError: the scores cannot be paired, are not finite, or are of fewer than two items.
    """
    differences = [_differences(own, other) for own, other in pairs]
    sizes = dict.fromkeys(by_item.size for _, by_item in differences)
    p_values: dict[int, float] = {}
    for size in sizes:
        places = [place for place, (_, by_item) in enumerate(differences) if by_item.size == size]
        p_values |= zip(places, _sign_flip_p_values([differences[place][1] for place in places]), strict=True)
    return [
        Difference(float(scores.mean()), *_interval(scores), p_values[place])
        for place, (scores, _) in enumerate(differences)
    ]


def paired_intervals(pairs: "Sequence[tuple[ArrayLike, ArrayLike]]") -> list[tuple[float, float, float]]:
    """Means and intervals of `paired_differences` without its tests: mean, low, high.

    Raises:
        ValueError: as `paired_differences`.
    """
    differences = [_differences(own, other)[0] for own, other in pairs]
    return [(float(scores.mean()), *_interval(scores)) for scores in differences]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several, so that any below a level is false at most at that rate.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, largest = list(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _differences(own_SI: "ArrayLike", other_SI: "ArrayLike") -> "tuple[np.ndarray, np.ndarray]":
    """Own minus other (S, I), and the mean over seeds (I,) with rounding noise set to zero."""
    import numpy as np

    own, other = _matrix("own scores", own_SI), _matrix("other scores", other_SI)
    if own.shape[1] != other.shape[1]:
        raise ValueError(f"scores are paired by item: own have {own.shape[1]} items, other {other.shape[1]}")
    if own.shape[0] != other.shape[0] and 1 not in (own.shape[0], other.shape[0]):
        raise ValueError(
            f"scores are paired by seed: own have {own.shape[0]} seeds, other {other.shape[0]}; give as many, or one"
        )
    if own.shape[1] < 2:
        raise ValueError(f"a difference takes at least two items, got {own.shape[1]}")
    by_item = (own - other).mean(axis=0)
    rounding = 1e-12 * max(np.abs(own).max(), np.abs(other).max())
    return own - other, np.where(np.abs(by_item) > rounding, by_item, 0.0)


def _sign_flip_p_values(by_item_KI: "Sequence[np.ndarray]") -> list[float]:
    """P-values of K pairs by the same flips, whose drawing is what takes time."""
    import numpy as np
    from scipy.stats import permutation_test

    # The largest sum that flips can give is 1; those that differ only by rounding count as the same.
    shares_KI = np.array([by_item / (np.abs(by_item).sum() or 1.0) for by_item in by_item_KI])

    def statistic(signs_RI: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(signs_RI @ shares_KI.T).round(9)

    # All pairs share the sign flips, so the statistic has one value per pair.
    found = permutation_test(
        (np.ones(shares_KI.shape[1]),), statistic, permutation_type="samples", alternative="greater",
        vectorized=True, n_resamples=_FLIPS, batch=_BATCH, rng=0,
    )  # fmt: skip
    return [float(p_value) for p_value in np.atleast_1d(found.pvalue)]


def _interval(scores_SI: "np.ndarray") -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    seeds, items = scores_SI.shape

    def mean_of_items(items_RI: np.ndarray, axis: int) -> np.ndarray:
        return scores_SI[0][items_RI].mean(axis=axis)

    def mean_of_both(seeds_RS: np.ndarray, items_RI: np.ndarray, axis: int) -> np.ndarray:
        # How often each seed was drawn.
        counts_RS = np.eye(seeds)[seeds_RS].sum(axis=-2)
        by_item_RI = counts_RS @ scores_SI / seeds
        return np.take_along_axis(by_item_RI, items_RI, axis=-1).mean(axis=axis)

    # The bootstrap takes samples of two or more.
    samples, statistic = (
        ((np.arange(items),), mean_of_items) if seeds == 1 else ((np.arange(seeds), np.arange(items)), mean_of_both)
    )
    found = bootstrap(
        samples, statistic, n_resamples=_RESAMPLES, batch=_BATCH, vectorized=True, method="percentile", rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _matrix(name: str, scores: "ArrayLike") -> "np.ndarray":
    import numpy as np

    matrix = np.asarray(scores, dtype=float)
    if matrix.ndim != 2 or len(matrix) == 0:
        raise ValueError(f"{name} must be an array by seed and item with at least one seed, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(matrix))} that are not")
    return matrix
