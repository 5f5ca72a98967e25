"""Slots read from texts that people wrote."""

import pytest

from skiplab.data.e2e_slots import parse_meaning, read_slots, slot_accuracy

MR = (
    "name[Blue Spice], eatType[pub], food[Chinese], priceRange[£20-25], customer rating[5 out of 5], "
    "area[city centre], familyFriendly[no], near[Rainbow Vegetarian Café]"
)


def test_synonymous_values_are_normalized() -> None:
    assert parse_meaning(MR) == {
        "name": "Blue Spice", "eatType": "pub", "food": "Chinese", "priceRange": "moderate",
        "customer rating": "high", "area": "city centre", "familyFriendly": "no", "near": "Rainbow Vegetarian Café",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "Blue Spice is a Chinese pub near Rainbow Vegetarian Café in the city centre. It is moderately priced, highly "
        "rated and not family-friendly.",
        "In the center of the city, by the Rainbow Vegetarian Cafe, the pub Blue Spice serves Chinese food for £20-25. "
        "Its customer rating is 5 out of 5; children are not welcome.",
        "A five star Chinese pub for adults, Blue Spice's prices are average. Find it downtown by rainbow vegetarian "
        "café.",
    ],
)
def test_usual_paraphrases_state_the_meaning(text: str) -> None:
    meaning = parse_meaning(MR)
    assert read_slots(text, meaning) == set(meaning.items())
    assert slot_accuracy(meaning, text) == 1.0


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("It has a low customer rating and low prices.", {("customer rating", "low"), ("priceRange", "cheap")}),
        ("It has high prices and is rated average.", {("customer rating", "average"), ("priceRange", "high")}),
        ("A 1 out of 5 star place.", {("customer rating", "low")}),
        ("inexpensive, by the river", {("priceRange", "cheap"), ("area", "riverside")}),
        ("It isn't kid friendly but it is cheap.", {("familyFriendly", "no"), ("priceRange", "cheap")}),
        ("It is not cheap, however families are welcome.", {("familyFriendly", "yes"), ("priceRange", "cheap")}),
        ("near Raja Indian Cuisine", {("near", "Raja Indian Cuisine")}),
        ("An Indian restaurant", {("food", "Indian")}),
        ("", set()),
    ],
)
def test_different_statements_are_distinguished(text: str, stated: set[tuple[str, str]]) -> None:
    assert read_slots(text, {}) == stated


def test_accuracy_counts_missing_wrong_and_invented_slots() -> None:
    meaning = parse_meaning("name[Zizzi], eatType[pub], area[riverside]")
    assert slot_accuracy(meaning, "Zizzi is a pub") == pytest.approx(2 / 3)
    assert slot_accuracy(meaning, "Zizzi is a pub in the city centre") == pytest.approx(2 / 4)
    assert slot_accuracy(meaning, "Zizzi is a riverside pub near Avalon") == pytest.approx(3 / 4)
    assert slot_accuracy(meaning, "Cotto is a riverside pub") == pytest.approx(2 / 4)
    assert slot_accuracy(parse_meaning("name[Nobody Knows]"), "the nobody knows") == 1.0
