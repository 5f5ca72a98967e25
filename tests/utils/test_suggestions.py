"""Suggestions for unknown names."""

import pytest

from skiplab.utils.suggestions import did_you_mean, suggestion


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("blue", ["rouge_l", "bleu"], "; did you mean bleu?"),
        ("blue", ["rouge_l"], "; choose from rouge_l"),
        ("blue", [], ""),
    ],
)
def test_the_most_similar_name_is_suggested_else_all_are(name: str, known: list[str], expected: str) -> None:
    assert suggestion(name, iter(known)) == expected
    assert did_you_mean(name, iter(known)) == (expected if "mean" in expected else "")


def test_a_higher_cutoff_suggests_less() -> None:
    assert did_you_mean("bleu", ["blue_"], cutoff=0.9) == ""
