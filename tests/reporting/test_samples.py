"""Outputs with their differences marked."""

from skiplab.data.restaurants import Restaurants
from skiplab.evaluation.generate import Generation
from skiplab.reporting.record import Entry, Record
from skiplab.reporting.samples import Piece, pieces, samples


class OneItem:
    prompt, references = "<name> the eagle <food> thai", ["the eagle serves thai food"]


def record(setting: str, text: str) -> Record:
    return Record(
        entry=Entry("full", setting, 0), series="full", chosen=0, trained=False, timed=True, figures={},
        outputs=Generation([text], [[5]], [[4]]), item_scores={},
    )  # fmt: skip


def test_words_are_compared_with_the_full_models() -> None:
    assert pieces("a b c", "a x c d") == [
        Piece("same", "a"), Piece("less", " b"), Piece("more", " x"), Piece("same", " c"), Piece("more", " d"),
    ]  # fmt: skip
    assert pieces("", "a") == [Piece("more", "a")]


def test_equal_outputs_stand_once_and_wrong_slots_are_named() -> None:
    asked = "the eagle serves thai food ."
    read = lambda prompt, output: ({("food", "thai")}, {("food", "thai")} if "thai" in output else {("food", "x")})  # noqa: E731
    outputs = {"1x": asked, "2x": "no food", "3x": asked}
    (sample,) = samples([OneItem()], [record(*one) for one in outputs.items()], count=5, slots=read)  # type: ignore[list-item]
    assert [output.labels for output in sample.outputs] == [["full 1x", "full 3x"], ["full 2x"]]
    assert sample.outputs[0].missing == sample.outputs[0].wrong == []
    assert sample.outputs[1].missing == ["food=thai"]
    assert sample.outputs[1].wrong == ["food=x"]


def test_a_tasks_slots_are_those_of_its_score() -> None:
    source = Restaurants(train_size=1, valid_size=1, test_size=3)
    for row in source.load()["test"]:
        asked, stated = source.slots(row["prompt"], row["references"][0])  # type: ignore[index]
        assert asked == stated
