"""Learn-then-Test calibration: p-values by hand, their order, and what a calibration guarantees."""

import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.evaluation.learn_then_test import PValue, check_attainable, fixed_sequence, items_needed, p_value

KINDS: list[PValue] = list(get_args(PValue))
LEVELS = st.floats(0.01, 0.99)
UNIT = st.floats(0, 1)


# Hand-computed values.


def test_hoeffding_is_exp_minus_2n_gap_squared() -> None:
    # n = 50, m = 0.1, delta = 0.3: exp(-2 * 50 * 0.2^2) = e^-4.
    assert p_value([0.0, 0.2] * 25, 0.3, "hoeffding") == pytest.approx(math.exp(-4))


@pytest.mark.parametrize("mean", [0.3, 0.31, 1.0])
def test_hoeffding_is_1_at_and_above_delta(mean: float) -> None:
    assert p_value([mean] * 40, 0.3, "hoeffding") == 1


def test_binomial_without_losses_is_the_chance_of_none() -> None:
    assert p_value([0] * 20, 0.1, "binomial") == pytest.approx(0.9**20)


def test_binomial_is_the_lower_tail() -> None:
    # P(Bin(4, 1/2) <= 1) = (1 + 4) / 16.
    assert p_value([0, 1, 0, 0], 0.5, "binomial") == pytest.approx(5 / 16)
    assert p_value([True, True], 0.5, "binomial") == 1


def test_hoeffding_bentkus_without_losses_is_the_chance_of_none() -> None:
    # kl(0, delta) = -ln(1 - delta), and Bentkus' side is e times as much.
    assert p_value([0.0] * 20, 0.1, "hoeffding_bentkus") == pytest.approx(0.9**20)


def test_hoeffding_bentkus_takes_its_entropy_side() -> None:
    # n = 4, m = 1/4, delta = 1/2: exp(-4 kl) = ((1/2) / (1/4)) (((1/2) / (3/4))^3) = 2 (2/3)^3, and 5e/16 > that.
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert math.exp(-4 * divergence) == pytest.approx(16 / 27)
    assert p_value([1.0, 0.0, 0.0, 0.0], 0.5, "hoeffding_bentkus") == pytest.approx(16 / 27)


def test_hoeffding_bentkus_takes_its_binomial_side() -> None:
    # n = 100, n m = 20, delta = 0.4: exp(-n kl) is larger than e P(Bin(100, 0.4) <= 20).
    tail = sum(math.comb(100, k) * 0.4**k * 0.6 ** (100 - k) for k in range(21))
    kl = 0.2 * math.log(0.5) + 0.8 * math.log(0.8 / 0.6)
    assert math.e * tail < math.exp(-100 * kl)
    assert p_value([0.2] * 100, 0.4, "hoeffding_bentkus") == pytest.approx(math.e * tail)


def test_hoeffding_bentkus_rounds_the_sum_of_losses_up() -> None:
    def bentkus(losses: int) -> float:
        return math.e * sum(math.comb(100, k) * 0.4**k * 0.6 ** (100 - k) for k in range(losses + 1))

    assert p_value([0.2] * 99 + [0.0], 0.4, "hoeffding_bentkus") == pytest.approx(bentkus(20))
    # 0.1 * 3 - 0.1 is a little more than 0.2, and 100 of it more than 20.
    assert p_value([0.1 * 3 - 0.1] * 100, 0.4, "hoeffding_bentkus") == pytest.approx(bentkus(20))


# Laws.


@given(st.lists(UNIT, min_size=1, max_size=60), UNIT, LEVELS, st.sampled_from(["hoeffding", "hoeffding_bentkus"]))
def test_p_falls_when_losses_fall(losses: list[float], factor: float, delta: float, kind: PValue) -> None:
    assert p_value([loss * factor for loss in losses], delta, kind) <= p_value(losses, delta, kind) * (1 + 1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), LEVELS)
def test_binomial_p_falls_when_losses_fall(pairs: list[tuple[bool, bool]], delta: float) -> None:
    fewer, more = [one and two for one, two in pairs], [one for one, _ in pairs]
    assert p_value(fewer, delta, "binomial") <= p_value(more, delta, "binomial")


@given(st.lists(UNIT, min_size=1, max_size=60), LEVELS)
def test_hoeffding_bentkus_is_at_most_hoeffding(losses: list[float], delta: float) -> None:
    tighter, looser = p_value(losses, delta, "hoeffding_bentkus"), p_value(losses, delta, "hoeffding")
    assert 0 < tighter <= 1
    assert tighter <= looser * (1 + 1e-9)


@given(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=60), LEVELS)
def test_binomial_is_at_most_hoeffding_bentkus(losses: list[int], delta: float) -> None:
    assert p_value(losses, delta, "binomial") <= p_value(losses, delta, "hoeffding_bentkus") * (1 + 1e-9)


@given(LEVELS, LEVELS, st.sampled_from(KINDS))
def test_items_needed_is_the_fewest_that_can_pass(delta: float, epsilon: float, kind: PValue) -> None:
    count = items_needed(delta, epsilon, kind)
    assert p_value([0.0] * count, delta, kind) <= epsilon
    assert count == 1 or p_value([0.0] * (count - 1), delta, kind) > epsilon


@pytest.mark.parametrize(
    ("delta", "epsilon", "kind", "count"),
    [
        # ln 20 / (2 * 0.01) = 149.8; ln 0.05 / ln 0.9 = 28.4.
        (0.1, 0.05, "hoeffding", 150),
        (0.1, 0.05, "hoeffding_bentkus", 29),
        (0.1, 0.05, "binomial", 29),
        (0.5, 0.125, "binomial", 3),
        (0.9, 0.9, "binomial", 1),
    ],
)
def test_items_needed_by_hand(delta: float, epsilon: float, kind: PValue, count: int) -> None:
    assert items_needed(delta, epsilon, kind) == count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delta", [0.1, 0.25, 0.5])
def test_items_needed_is_exact_where_logarithms_round(delta: float, kind: PValue) -> None:
    for count in range(1, 40):
        p = p_value([0.0] * count, delta, kind)
        assert items_needed(delta, p, kind) == count
        assert items_needed(delta, math.nextafter(p, 0), kind) == count + 1


# The sequence.


@pytest.mark.parametrize(
    ("p_values", "rejected"),
    [([], 0), ([0.06, 0.0], 0), ([0.01, 0.05, 0.2, 0.01], 2), ([0.01, 0.02], 2), ([math.nan, 0.01], 0)],
)
def test_fixed_sequence_stops_at_the_first_that_fails(p_values: list[float], rejected: int) -> None:
    assert fixed_sequence(p_values, 0.05) == rejected


def test_fixed_sequence_evaluates_nothing_after_the_first_that_fails() -> None:
    asked = []

    def lazy() -> Iterator[float]:
        for p in [0.01, 0.02, 0.5, 0.01]:
            asked.append(p)
            yield p

    assert fixed_sequence(lazy(), 0.05) == 2
    assert asked == [0.01, 0.02, 0.5]


# The guarantee of a calibration. Thresholds are in order of risk, the safest first. The fifth is the first with a risk
# above delta, by so little that a rule without a margin accepts it half of the time.

RISKS = np.array([0.01, 0.02, 0.03, 0.04, 0.2001, 0.25, 0.3, 0.4])
DELTA, EPSILON, ITEMS, REPETITIONS = 0.2, 0.1, 120, 600
VIOLATION = 4


def bernoulli_losses() -> np.ndarray:
    # One draw per item decides its losses at all thresholds, so that they are nested, as with a real model.
    draws = np.random.default_rng(0).random((REPETITIONS, 1, ITEMS))
    return (draws < RISKS[:, None]).astype(float)


def beta_losses() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.beta(0.3 * RISKS[:, None], 0.3 * (1 - RISKS[:, None]), size=(REPETITIONS, len(RISKS), ITEMS))


def by_p_value(kind: PValue) -> Callable[[np.ndarray], int]:
    return lambda losses: fixed_sequence((p_value(row.tolist(), DELTA, kind) for row in losses), EPSILON)


def by_mean(losses: np.ndarray) -> int:
    return fixed_sequence(losses.mean(axis=1), DELTA)


def chosen(losses: np.ndarray, rule: Callable[[np.ndarray], int]) -> tuple[float, float]:
    """Shares of repetitions that choose a threshold above delta, and that choose at least the last one below it."""
    passed = np.array([rule(repetition) for repetition in losses])
    return float((passed > VIOLATION).mean()), float((passed >= VIOLATION).mean())


CASES = [(bernoulli_losses, "binomial"), (beta_losses, "hoeffding_bentkus"), (beta_losses, "hoeffding")]


@pytest.mark.parametrize(("losses", "kind"), CASES)
def test_share_of_calibrations_above_delta_is_at_most_epsilon(losses: Callable[[], np.ndarray], kind: PValue) -> None:
    above, useful = chosen(losses(), by_p_value(kind))
    assert above <= EPSILON + 3 * math.sqrt(EPSILON * (1 - EPSILON) / REPETITIONS)
    assert useful > 0.9


@pytest.mark.parametrize("losses", [bernoulli_losses, beta_losses])
def test_choosing_by_the_mean_alone_violates_the_bound(losses: Callable[[], np.ndarray]) -> None:
    above, _ = chosen(losses(), by_mean)
    assert above > 0.4


# Errors.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("losses", "delta", "message"),
    [
        ([], 0.1, "takes at least one loss, got none"),
        ([0, 1.5], 0.1, r"losses must lie in \[0, 1\], got 1.5"),
        ([-0.5], 0.1, r"losses must lie in \[0, 1\], got -0.5"),
        ([math.nan], 0.1, r"losses must lie in \[0, 1\], got nan"),
        ([0], 0.0, "delta must lie between 0 and 1, both excluded, got 0"),
        ([0], 1.0, "delta must lie between 0 and 1, both excluded, got 1"),
    ],
)
def test_p_value_refuses(losses: list[float], delta: float, message: str, kind: PValue) -> None:
    with pytest.raises(ValueError, match=message):
        p_value(losses, delta, kind)


def test_binomial_refuses_losses_between_0_and_1() -> None:
    with pytest.raises(ValueError, match=r"0 or 1, got 0\.5; use hoeffding_bentkus"):
        p_value([0, 1, 0.5], 0.1, "binomial")


def test_unknown_p_value_is_named() -> None:
    kind: Any = "student"
    with pytest.raises(ValueError, match="'student'; choose one of hoeffding, hoeffding_bentkus, binomial"):
        p_value([0.0], 0.1, kind)


def test_check_attainable_states_the_number_of_items_needed() -> None:
    check_attainable(150, 0.1, 0.05, "hoeffding")
    with pytest.raises(
        ValueError, match=r"^149 calibration items cannot certify delta=0.1 at epsilon=0.05 .* at least 150"
    ):
        check_attainable(149, 0.1, 0.05, "hoeffding")


@pytest.mark.parametrize(("delta", "epsilon", "name"), [(0, 0.1, "delta"), (1.2, 0.1, "delta"), (0.1, 1, "epsilon")])
def test_check_attainable_refuses_levels_out_of_range(delta: float, epsilon: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must lie between 0 and 1"):
        check_attainable(10**6, delta, epsilon, "binomial")
