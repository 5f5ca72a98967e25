"""The number of drafts that pays."""

import random

import pytest

from skiplab.engine.draft_length import AdaptiveLength, DraftCounts, Drafting, FixedLength, Outcome, expected_tokens


def simulate(most: int, *, acceptance: float, draft: float, column: float, rounds: int = 400) -> list[int]:
    """Lengths chosen where a draft takes `draft` and each verified position `column` of a plain step's time."""
    rng, length, chosen = random.Random(0), AdaptiveLength(most), []
    for _ in range(rounds):
        count = length.next()
        chosen.append(count)
        accepted = next((place for place in range(count) if rng.random() > acceptance), count)
        length.observe(Outcome(count, [accepted], count * draft, 1 + count * column))
    return chosen


def fastest(most: int, acceptance: float, draft: float, column: float) -> int:
    return max(range(most + 1), key=lambda k: expected_tokens(acceptance, k) / (1 + k * (draft + column)))


@pytest.mark.parametrize("acceptance", [0.1, 0.5, 0.7, 0.95])
@pytest.mark.parametrize(("draft", "column"), [(0.1, 0.02), (0.3, 0.05), (0.5, 0.5)])
def test_most_rounds_have_about_the_fastest_length(acceptance: float, draft: float, column: float) -> None:
    def speed(count: int) -> float:
        return expected_tokens(acceptance, count) / (1 + count * (draft + column))

    later = simulate(8, acceptance=acceptance, draft=draft, column=column)[50:]
    mean = sum(map(speed, later)) / len(later)
    assert mean > 0.9 * speed(fastest(8, acceptance, draft, column))


def test_useless_drafts_cost_little() -> None:
    later = simulate(4, acceptance=0.0, draft=0.5, column=0.1)[10:]
    assert sum(later) <= len(later) / 20


def test_a_fixed_length_stays() -> None:
    length = FixedLength(3)
    length.observe(Outcome(3, [0], 1.0, 1.0))
    assert length.next() == 3


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
