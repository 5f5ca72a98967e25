"""The number of drafts that pays."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

from skiplab.engine.draft_length import expected_tokens
from skiplab.engine.draft_rounds import AdaptiveLength, DraftLength, FixedLength, Outcome, Tally


class Times(NamedTuple):
    """Times of a draft and of a verified position, relative to a plain step."""

    draft: float
    column: float

    def of(self, count: int) -> float:
        return 1 + count * (self.draft + self.column)


CHEAP, MIDDLING, DEAR = Times(0.1, 0.02), Times(0.3, 0.05), Times(0.5, 0.5)

# Draws a draft's probability to be accepted, which is also the drafter's confidence.
Acceptance = Callable[[random.Random], float]


def one_round(
    length: DraftLength, rows: Sequence[Acceptance], tallies: Sequence[Tally], times: Times, rng: random.Random, *,
    claimed: float | None = None,
) -> Outcome:  # fmt: skip
    """One round of rows.

    Args:
        claimed: the drafter's confidence if it is not the acceptance.
    """
    count, promised, accepted, confidences = 0, [], [0 for _ in rows], [1.0 for _ in rows]
    going = [True for _ in rows]
    for _ in range(length.next()):
        if not length.goes_on(confidences, tallies):
            break
        count += 1
        for row, acceptance in enumerate(rows):
            probability = acceptance(rng)
            going[row] = going[row] and rng.random() < probability
            accepted[row] += going[row]
            confidences[row] *= probability if claimed is None else claimed
        promised.append(sum(confidences) / len(rows))
    outcome = Outcome(count, accepted, promised, count * times.draft, 1 + count * times.column)
    length.observe(outcome, tallies)
    return outcome


def simulate(
    most: int, times: Times, acceptance: Acceptance, *, claimed: float | None = None
) -> tuple[float, list[int]]:
    """The speed of later rounds of one long row relative to plain steps, and their numbers of drafts."""
    rng, length, tally, tokens, seconds, drafted = random.Random(0), AdaptiveLength(most), Tally(), 0.0, 0.0, []
    for number in range(2000):
        outcome = one_round(length, [acceptance], [tally], times, rng, claimed=claimed)
        if number >= 100:
            tokens, seconds = tokens + 1 + outcome.mean_accepted, seconds + times.of(outcome.drafted)
            drafted.append(outcome.drafted)
    return tokens / seconds, drafted


def batches(
    length: DraftLength, times: Times, acceptances: Sequence[float], tokens: int = 40, count: int = 50
) -> float:
    """The time of batches in which each row generates so many tokens; the drafter is always sure of itself."""
    rng, seconds = random.Random(0), 0.0
    for _ in range(count):
        left, tallies = [tokens for _ in acceptances], [Tally() for _ in acceptances]
        while live := [row for row, needed in enumerate(left) if needed > 0]:
            rows = [lambda rng, one=acceptances[row]: one for row in live]
            outcome = one_round(length, rows, [tallies[row] for row in live], times, rng, claimed=0.95)
            for row, accepted in zip(live, outcome.accepted, strict=True):
                left[row] -= 1 + accepted
            seconds += times.of(outcome.drafted)
    return seconds


def fastest(most: int, acceptance: float, times: Times) -> float:
    """The speed of the best number, if each draft has this probability to be accepted."""
    return max(expected_tokens(acceptance, count) / times.of(count) for count in range(most + 1))


@pytest.mark.parametrize("acceptance", [0.1, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("times", [CHEAP, MIDDLING, DEAR], ids=["cheap", "middling", "dear"])
@pytest.mark.parametrize("claimed", [None, 0.9], ids=["calibrated", "claims 0.9"])
def test_the_speed_is_about_that_of_the_best_number(acceptance: float, times: Times, claimed: float | None) -> None:
    speed, _ = simulate(8, times, lambda rng: acceptance, claimed=claimed)
    assert speed > 0.95 * fastest(8, acceptance, times)


@pytest.mark.parametrize("times", [CHEAP, MIDDLING], ids=["cheap", "middling"])
def test_confidence_gains_over_any_number(times: Times) -> None:
    """Six of ten drafts are nearly certain to be accepted, the others mostly are not."""
    speed, _ = simulate(8, times, lambda rng: 0.95 if rng.random() < 0.6 else 0.3)
    assert speed > 1.05 * fastest(8, 0.6 * 0.95 + 0.4 * 0.3, times)


def test_a_row_whose_drafts_fail_gets_few_once_it_is_alone() -> None:
    acceptances, times = [0.9, 0.9, 0.9, 0.05], Times(0.2, 0.15)
    adaptive = batches(AdaptiveLength(6), times, acceptances)
    fixed = min(batches(FixedLength(most), times, acceptances) for most in range(1, 7))
    assert adaptive < 0.96 * fixed


def test_useless_drafts_cost_little() -> None:
    speed, drafted = simulate(4, Times(0.5, 0.1), lambda rng: 0.0, claimed=0.99)
    assert sum(drafted) <= len(drafted) / 20
    assert speed > 0.95


def test_a_drafter_that_becomes_good_is_found_out() -> None:
    rng, length, tally = random.Random(0), AdaptiveLength(4), Tally()
    for acceptance in (0.0, 1.0):
        drafted = [one_round(length, [lambda rng: acceptance], [tally], CHEAP, rng).drafted for _ in range(400)]  # noqa: B023
        mean = sum(drafted[200:]) / 200
        assert (mean > 3) == (acceptance == 1.0)


@pytest.mark.parametrize("usual", [True, False], ids=["a stall", "a recording"])
@pytest.mark.parametrize("at", ["draft_seconds", "verify_seconds"])
def test_one_long_round_changes_little(usual: bool, at: str) -> None:
    rng, length, tally = random.Random(0), AdaptiveLength(4), Tally()

    def drafted(rounds: int) -> float:
        return sum(one_round(length, [lambda rng: 0.9], [tally], CHEAP, rng).drafted for _ in range(rounds)) / rounds

    before = drafted(100)
    odd = Outcome(4, [4], [0.9, 0.81, 0.73, 0.66], 0.4, 1.1)
    length.observe(replace(odd, usual=usual, **{at: 250.0}), [tally])
    assert drafted(20) == pytest.approx(before, abs=0.5)


def test_a_fixed_length_stays() -> None:
    length = FixedLength(3)
    length.observe(Outcome(3, [0], [], 1.0, 1.0), [Tally()])
    assert length.next() == 3
    assert not length.asks
    assert length.goes_on([0.0], [Tally()])


def test_a_threshold_ends_a_round_of_either_kind() -> None:
    for length in (FixedLength(3, 0.5), AdaptiveLength(3, 0.5)):
        assert length.asks
        length.next()
        assert length.goes_on([0.75, 0.25], [Tally(), Tally()])
        assert not length.goes_on([0.74, 0.25], [Tally(), Tally()])
