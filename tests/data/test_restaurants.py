"""The generated restaurant task."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.data.restaurants import (
    VALUES,
    Restaurants,
    linearise,
    parse_prompt,
    read_back,
    realise,
    sample_meaning,
    slot_accuracy,
)

SMALL = Restaurants(train_size=60, valid_size=20, test_size=20, references=4)


@given(st.integers(0, 10**9))
def test_every_text_states_its_meaning_exactly(seed: int) -> None:
    rng = random.Random(seed)
    meaning = sample_meaning(rng)
    assert 3 <= len(meaning) <= 8
    assert read_back(realise(meaning, rng)) == set(meaning.items())
    assert parse_prompt(linearise(meaning)) == meaning


def test_texts_vary() -> None:
    rng = random.Random(0)
    meaning = {slot: values[0] for slot, values in VALUES.items()}
    texts = {realise(meaning, rng) for _ in range(50)}
    assert len(texts) > 40
    assert len({text.count(" .") for text in texts}) > 2


@pytest.mark.parametrize(
    ("text", "accuracy"),
    [
        ("golden fox is a cheap pub .", 1.0),
        ("golden fox is a pub .", 2 / 3),
        ("golden fox is an expensive pub .", 2 / 4),
        ("golden fox is a cheap pub near the castle .", 3 / 4),
        ("golden oak is a cheap pub .", 2 / 4),
        ("", 0.0),
    ],
)
def test_slot_accuracy_by_hand(text: str, accuracy: float) -> None:
    meaning = {"name": "golden fox", "type": "pub", "price": "low"}
    assert slot_accuracy(meaning, text) == pytest.approx(accuracy)


def test_longer_phrases_are_matched_before_shorter_ones() -> None:
    assert read_back("it is not for families .") == {("family", "no")}
    assert read_back("it has a rating of four stars .") == {("rating", "four")}


def test_splits_are_disjoint_and_depend_on_the_seed() -> None:
    splits = SMALL.load()
    prompts = [{row["prompt"] for row in splits[name].to_list()} for name in ("train", "valid", "test")]
    assert [len(found) for found in prompts] == [60, 20, 20]
    assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
    assert splits["test"].to_dict() == SMALL.load()["test"].to_dict()
    assert {len(row["references"]) for row in splits["test"].to_list()} == {4}


def test_the_vocabulary_covers_every_text() -> None:
    splits = SMALL.load()
    tokenizer = SMALL.tokenizer(splits)
    for row in splits["test"].to_list():
        for text in (row["prompt"], *row["references"]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="data test_size must be at least 1, got 0"):
        Restaurants(test_size=0)
