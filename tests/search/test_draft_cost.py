"""The cost model of drafts."""

import random

import pytest

from skiplab.engine.draft_length import expected_tokens
from skiplab.search.draft_cost import DraftCosts, Measured, evaluated


def measured(costs: DraftCosts, count: int, *, noise: float, seed: int = 0) -> list[Measured]:
    """Drafters whose rounds take the modelled time, up to noise."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        length, depth, agreement = rng.randint(1, 8), rng.randint(1, 11), rng.uniform(0.2, 0.98)
        tokens = expected_tokens(agreement, length)
        speedup = costs.speedup(agreement, length, depth) * rng.uniform(1 - noise, 1 + noise)
        found.append(Measured(length, depth, agreement, tokens, speedup))
    return found


def test_exact_times_give_the_constants_back() -> None:
    costs = DraftCosts(verification=1.1, draft=0.15, layer=0.07)
    found, errors = evaluated(measured(costs, 20, noise=0)) or pytest.fail("too few")
    assert vars(found) == pytest.approx(vars(costs))
    assert errors.largest < 1e-6
    assert errors.rank_of_speeds == pytest.approx(1)
    assert errors.held_out == 10


def test_errors_are_those_of_drafters_that_it_was_not_fitted_to() -> None:
    costs = DraftCosts(verification=1.0, draft=0.1, layer=0.08)
    exact = measured(costs, 20, noise=0)
    # Those that it is fitted to stay exact, the others are twice as fast.
    shifted = [Measured(**{**vars(one), "speedup": one.speedup * (1 + place % 2)}) for place, one in enumerate(exact)]
    _, errors = evaluated(shifted) or pytest.fail("too few")
    assert errors.median == pytest.approx(0.5)
    assert errors.rank_of_speeds == pytest.approx(1)


def test_agreement_alone_ranks_worse_than_the_model() -> None:
    costs = DraftCosts(verification=1.0, draft=0.1, layer=0.08)
    _, errors = evaluated(measured(costs, 40, noise=0.05)) or pytest.fail("too few")
    assert errors.rank_of_agreement < errors.rank_of_speeds


def test_too_few_drafters_give_no_model() -> None:
    assert evaluated(measured(DraftCosts(1, 0.1, 0.1), 7, noise=0)) is None
