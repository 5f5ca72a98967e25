"""Tokenization for ROUGE."""

import random
import re
import string
import unicodedata

import pytest

from skiplab.evaluation.metrics import rouge, rouge_l
from skiplab.evaluation.rouge_tokens import rouge_tokens

TEXTS = {
    "Chinese": "银狼是一家河边的餐厅，价格便宜。",  # noqa: RUF001
    "Japanese": "カフェは駅の近くです。",
    "Russian": "Кафе у реки, недорогое.",  # noqa: RUF001
    "Hindi": "यह नदी के किनारे एक भोजनालय है।",
    "Arabic": "مطعم رخيص قرب النهر.",
    "Korean": "강가의 싼 식당입니다.",
    "Thai": "ร้านอาหารริมน้ำราคาถูก",
    "German": "Größe über Café",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_rouge_is_1_for_equal_texts_and_0_without_common_words(text: str) -> None:
    assert {name: scores[0] for name, scores in rouge([text], [[text]]).items()} == {
        "rouge_1": 1, "rouge_2": 1, "rouge_l": 1,
    }  # fmt: skip
    assert rouge_l(["Gr e ber Caf"], [[text]]) == [0]
    assert rouge_l([text], [["nothing of it"]]) == [0]


def test_words_of_ascii_text_are_those_of_rouge_score() -> None:
    generator = random.Random(0)
    for _ in range(200):
        text = "".join(generator.choices(string.printable, k=60))
        # rouge_score's rule.
        assert rouge_tokens(text) == re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def test_scripts_without_spaces_give_a_word_per_character() -> None:
    assert rouge_tokens("价格3便宜 ABC") == ["价", "格", "3", "便", "宜", "abc"]
    assert rouge_tokens("싼 식당") == ["싼", "식당"]
    assert rouge_tokens("नदी के") == ["नदी", "के"]


def test_spellings_of_one_character_are_equal() -> None:
    composed = "Café"
    assert rouge_tokens(unicodedata.normalize("NFD", composed)) == rouge_tokens(composed) == ["café"]
