"""Differences between methods and intervals of scores, over training seeds and test items.

Arrays are indexed by seed (S) and item (I). The interval is that of the pigeonhole bootstrap (Owen 2007,
doi 10.1214/07-AOAS122), which resamples seeds and items independently of each other. Resampling S seeds shows only
(S - 1) / S of the variance between them: with few seeds the interval is too narrow, with one it is that of the items.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

_RESAMPLES = 2000
_FLIPS = 9999


@dataclass(frozen=True)
class Difference:
    """A mean difference, its 95% interval and the p-value of no difference; see `paired_difference`."""

    mean: float
    low: float
    high: float
    p_value: float


def seed_item_interval(scores_SI: "ArrayLike") -> tuple[float, float] | None:
    """Bootstrap 95% percentile interval of the mean over seeds and items; None for fewer than two items.

    Raises:
        ValueError: the scores are not finite numbers by seed and item.
    """
    scores = _matrix("scores", scores_SI)
    return _interval(scores) if scores.shape[1] >= 2 else None


def paired_difference(own_SI: "ArrayLike", other_SI: "ArrayLike") -> Difference:
    """Mean of own minus other, paired by seed and by item, with its interval and a test.

    The interval is that of `seed_item_interval` of the differences. The p-value is of a two-sided paired sign-flip
    permutation test over items, on differences averaged over seeds: it takes the seeds as given, so it does not
    cover their choice, which the interval does.

    Args:
        own_SI, other_SI: scores of the same items by the same seeds; one with a single seed (a method without
            training, say) is repeated for all the other's seeds.

    Raises:
        ValueError: the scores cannot be paired, are not finite, or are of fewer than two items.
    """
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
    differences = own - other
    by_item = differences.mean(axis=0)
    # The sign of an item without a difference changes nothing; one that is only rounding must not pass for one.
    by_item = by_item[np.abs(by_item) > 1e-12 * max(np.abs(own).max(), np.abs(other).max())]
    flips = np.random.default_rng(0).integers(0, 2, size=(_FLIPS, len(by_item)), dtype=np.int8)
    # Unlike `@`, `einsum` casts the flips to float piece by piece, not as a copy of eight times their size.
    sums = by_item.sum() - 2 * np.einsum("fi,i->f", flips, by_item)
    # Flips that leave the sum as it is but for rounding count as being as extreme.
    extreme = np.abs(by_item.sum()) - 1e-9 * np.abs(by_item).sum()
    count = int((np.abs(sums) >= extreme).sum())
    low, high = _interval(differences)
    return Difference(float(differences.mean()), low, high, (count + 1) / (_FLIPS + 1))


def _interval(scores_SI: "np.ndarray") -> tuple[float, float]:
    import numpy as np

    seeds, items = scores_SI.shape
    rng = np.random.default_rng(0)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES)
    item_counts = rng.multinomial(items, np.full(items, 1 / items), size=_RESAMPLES)
    means = np.einsum("ri,ri->r", seed_counts @ scores_SI, item_counts) / scores_SI.size
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _matrix(name: str, scores: "ArrayLike") -> "np.ndarray":
    import numpy as np

    matrix = np.asarray(scores, dtype=float)
    if matrix.ndim != 2 or len(matrix) == 0:
        raise ValueError(f"{name} must be an array by seed and item with at least one seed, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(matrix))} that are not")
    return matrix
