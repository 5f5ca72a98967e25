"""English words as COCO's caption evaluation counts them; expected values are from Stanford's tokenizer."""

import pytest

from skiplab.evaluation.ptb_tokens import ptb_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Blue Spice doesn't serve families.", "the blue spice does n't serve families"),
        ("It's a family-friendly café; they're near £20-25.", "it 's a family-friendly café they 're near # 20-25"),
        ("Rated 5 out of 5, at 30.99.", "rated 5 out of 5 at 30.99"),
        ("City center., by hors d'oeuvre", "city center. by hors d'oeuvre"),
        ('"A (good) pub"!', "a -lrb- good -rrb- pub"),
    ],
)
def test_words(text: str, tokens: str) -> None:
    assert " ".join(ptb_tokens(text)) == tokens
