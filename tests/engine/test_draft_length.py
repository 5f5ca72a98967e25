"""The number of drafts that pays."""

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from skiplab.engine.draft_length import AdaptiveLength, DraftCounts, Drafting, FixedLength, Outcome, expected_tokens


class Times(NamedTuple):
    """Times of a draft and of a verified position, relative to a plain step."""

    draft: float
    column: float

    def of(self, count: int) -> float:
        return 1 + count * (self.draft + self.column)


CHEAP, MIDDLING, DEAR = Times(0.1, 0.02), Times(0.3, 0.05), Times(0.5, 0.5)


def simulate(
    most: int, times: Times, acceptance: Callable[[random.Random], float], *, claimed: float | None = None
) -> tuple[float, list[int]]:
    """The speed of later rounds relative to plain steps, and their numbers of drafts.

    Args:
        acceptance: draws a draft's probability to be accepted, which is also the drafter's confidence.
        claimed: the drafter's confidence if it is another.
    """
    rng, length, tokens, seconds, drafted = random.Random(0), AdaptiveLength(most), 0.0, 0.0, []
    for number in range(2000):
        count, accepted, confidence, expected, going = 0, 0, 1.0, 0.0, True
        for _ in range(length.next()):
            count += 1
            probability = acceptance(rng)
            going = going and rng.random() < probability
            accepted += going
            confidence *= probability if claimed is None else claimed
            expected += confidence
            if not length.goes_on(confidence):
                break
        length.observe(Outcome(count, [accepted], expected, count * times.draft, 1 + count * times.column))
        if number >= 100:
            tokens, seconds = tokens + 1 + accepted, seconds + times.of(count)
            drafted.append(count)
    return tokens / seconds, drafted


def fastest(most: int, acceptance: float, times: Times) -> float:
    """The speed of the best number, if each draft has this probability to be accepted."""
    return max(expected_tokens(acceptance, count) / times.of(count) for count in range(most + 1))


@pytest.mark.parametrize("acceptance", [0.1, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("times", [CHEAP, MIDDLING, DEAR], ids=["cheap", "middling", "dear"])
@pytest.mark.parametrize("claimed", [None, 0.9], ids=["calibrated", "claims 0.9"])
def test_the_speed_is_about_that_of_the_best_number(acceptance: float, times: Times, claimed: float | None) -> None:
    speed, _ = simulate(8, times, lambda rng: acceptance, claimed=claimed)
    assert speed > 0.93 * fastest(8, acceptance, times)


@pytest.mark.parametrize("times", [CHEAP, MIDDLING], ids=["cheap", "middling"])
def test_confidence_gains_over_any_number(times: Times) -> None:
    """Six of ten drafts are nearly certain to be accepted, the others mostly are not."""
    speed, _ = simulate(8, times, lambda rng: 0.95 if rng.random() < 0.6 else 0.3)
    assert speed > 1.05 * fastest(8, 0.6 * 0.95 + 0.4 * 0.3, times)


def test_useless_drafts_cost_little() -> None:
    speed, drafted = simulate(4, Times(0.5, 0.1), lambda rng: 0.0, claimed=0.99)
    assert sum(drafted) <= len(drafted) / 20
    assert speed > 0.95


def test_a_fixed_length_stays() -> None:
    length = FixedLength(3)
    length.observe(Outcome(3, [0], 0.0, 1.0, 1.0))
    assert length.next() == 3
    assert not length.asks
    assert length.goes_on(0.0)


def test_a_threshold_ends_a_round_of_either_kind() -> None:
    for length in (FixedLength(3, 0.5), AdaptiveLength(3, 0.5)):
        assert length.asks
        assert length.goes_on(0.5)
        assert not length.goes_on(0.49)


def test_expected_tokens_is_the_closed_form() -> None:
    assert expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    assert expected_tokens(1.0, 4) == 5
    assert expected_tokens(0.0, 4) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"length": 0}, "draft length must be at least 1, got 0"),
        ({"threshold": 1.0}, "draft threshold must lie between 0 and 1, got 1.0"),
    ],
)
def test_bad_values_are_refused(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Drafting(**bad)  # type: ignore[arg-type]


def test_counts_add_up() -> None:
    parts = [DraftCounts(2, 8, 5, 40), DraftCounts(1, 2, 0, 16)]
    assert DraftCounts.total(parts) == DraftCounts(3, 10, 5, 56)
    assert DraftCounts.total([]) is None
    assert DraftCounts().figures == {}
