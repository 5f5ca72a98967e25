"""Stop strings: with the library's criterion, and by decoding the text if the criterion cannot be built."""

import pytest
from transformers import StopStringCriteria

from skiplab.engine.batch import left_pad
from skiplab.engine.stop_strings import DecodedStopStrings, stop_criterion
from tests.export.test_method import byte_level_tokenizer
from tests.export.test_saved_method import DATA


def test_the_librarys_criterion_is_used_if_possible() -> None:
    tokenizer = byte_level_tokenizer()
    assert isinstance(stop_criterion(tokenizer, ["é"], 0), StopStringCriteria)
    assert isinstance(stop_criterion(DATA.tokenizer, ["pub"], 0), DecodedStopStrings)


@pytest.mark.parametrize("stop", ["x with", "é", " low"])
def test_decoding_the_text_stops_the_same_rows(stop: str) -> None:
    tokenizer = byte_level_tokenizer()
    texts = ["the golden fox with", "the café", "the fox is low", "prices"]
    ids_BT, _ = left_pad(tokenizer(texts)["input_ids"], 0)
    expected = StopStringCriteria(tokenizer, [stop])(ids_BT, None)  # type: ignore[arg-type]
    assert DecodedStopStrings(tokenizer, [stop], 0)(ids_BT, None).tolist() == expected.tolist()
    assert expected.sum() == 1


def test_stop_strings_in_the_prompt_are_ignored() -> None:
    tokenizer = byte_level_tokenizer()
    ids_BT, _ = left_pad([tokenizer("the golden fox")["input_ids"]], 0)
    assert DecodedStopStrings(tokenizer, ["golden"], 0)(ids_BT, None).tolist() == [True]
    assert DecodedStopStrings(tokenizer, ["golden"], ids_BT.shape[1])(ids_BT, None).tolist() == [False]
