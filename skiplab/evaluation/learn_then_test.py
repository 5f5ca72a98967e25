"""Calibrating a threshold so that its expected loss is under a bound: Learn then Test.

Terms: a setting is certified when the null "its expected loss is above `delta`" is rejected; `epsilon` bounds the
probability, over draws of the calibration items, that a setting whose expected loss is above `delta` is certified.
A p-value holds for losses that are independent over items.

Sources: Angelopoulos et al., arXiv 2110.01052, as used by CALM, arXiv 2207.07061, section 4; the Hoeffding-Bentkus
bound is Bates et al., arXiv 2101.02703.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Literal, get_args

PValue = Literal["hoeffding", "hoeffding_bentkus", "binomial"]


def p_value(losses: Sequence[float], delta: float, kind: PValue) -> float:
    """P-value of the null "the expected loss is above `delta`", with `n` losses of mean `m`, in [0, 1].

    - `hoeffding`: `exp(-2 n (delta - m)^2)`, 1 for a mean above `delta`. CALM's.
    - `hoeffding_bentkus`: the smaller of `exp(-n kl(min(m, delta), delta))`, with the relative entropy of two
      Bernoulli variables, and `e P(Bin(n, delta) <= ceil(n m))`. Never above Hoeffding's.
    - `binomial`: `P(Bin(n, delta) <= n m)`, exact, for losses that are 0 or 1. Never above the others.

    Args:
        losses: one per calibration item, each in [0, 1].
        delta: the bound on the expected loss, between 0 and 1.

    Raises:
        ValueError: no losses, one outside [0, 1], one between 0 and 1 for `binomial`, or a `delta` out of range.
    """
    _check_open("delta", delta)
    if len(losses) == 0:
        raise ValueError("a p-value takes at least one loss, got none")
    for loss in losses:
        if not 0 <= loss <= 1:
            raise ValueError(f"losses must lie in [0, 1], got {loss:g}")
        if kind == "binomial" and loss not in (0, 1):
            raise ValueError(f"the binomial p-value is for losses that are 0 or 1, got {loss:g}; use hoeffding_bentkus")
    return _p_value(math.fsum(losses), len(losses), delta, kind)


def _p_value(total: float, count: int, delta: float, kind: PValue) -> float:
    mean = total / count
    if kind == "hoeffding":
        return math.exp(-2 * count * max(0.0, delta - mean) ** 2)
    from scipy.special import bdtr, rel_entr

    if kind == "binomial":
        return float(bdtr(total, count, delta))
    if kind == "hoeffding_bentkus":
        mean = min(mean, delta)
        divergence = float(rel_entr(mean, delta) + rel_entr(1 - mean, 1 - delta))
        # Without this, rounding errors of a sum that should be an integer could raise its ceiling by one.
        whole = math.ceil(total - 1e-15 * count)
        return min(1.0, math.exp(-count * divergence), math.e * float(bdtr(whole, count, delta)))
    raise ValueError(f"unknown p-value {kind!r}; choose one of {', '.join(get_args(PValue))}")


def items_needed(delta: float, epsilon: float, kind: PValue) -> int:
    """The fewest items whose p-value is at most `epsilon` when no item has a loss.

    Raises:
        ValueError: `delta` or `epsilon` is not between 0 and 1.
    """
    _check_open("delta", delta)
    _check_open("epsilon", epsilon)
    per_item = 2 * delta**2 if kind == "hoeffding" else -math.log1p(-delta)
    estimate = math.ceil(-math.log(epsilon) / per_item)
    # The quotient of two logarithms can fall on the wrong side of a whole number.
    for count in range(max(1, estimate - 1), estimate + 1):
        if _p_value(0.0, count, delta, kind) <= epsilon:
            return count
    return estimate + 1


def check_attainable(count: int, delta: float, epsilon: float, kind: PValue) -> None:
    """Refuses a calibration that cannot certify anything, whatever its losses.

    Raises:
        ValueError: `delta` or `epsilon` is not between 0 and 1, or `count` items are too few.
    """
    needed = items_needed(delta, epsilon, kind)
    if count < needed:
        raise ValueError(
            f"{count} calibration items cannot certify delta={delta:g} at epsilon={epsilon:g} with the {kind} "
            f"p-value, even if no item has a loss: that takes at least {needed} items"
        )


def fixed_sequence(p_values: Iterable[float], epsilon: float) -> int:
    """How many hypotheses, from the first on, fixed-sequence testing rejects at level `epsilon`.

    Args:
        p_values: in an order chosen without the calibration items, such as from the safest setting on; nothing is
            drawn from it after the first that is above `epsilon`.
    """
    return sum(1 for _ in takewhile(lambda p: p <= epsilon, p_values))


def _check_open(name: str, level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, got {level:g}")
