"""How tokens are drafted, and counts of drafts."""

import pytest

from skiplab.engine.draft_length import DraftCounts, Drafting, expected_tokens


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
