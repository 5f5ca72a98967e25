"""`Record`: the outcome of a setting."""

import json

import pytest

from skiplab.evaluation.generate import Generation
from skiplab.reporting.record import Entry, Record, Setting, Timing


def record(method: str = "skipdecode", setting: str = "2x", seed: int = 0) -> Record:
    return Record(
        entry=Entry(method, setting, seed),
        series=method,
        chosen=0,
        trained=True,
        timed=True,
        figures={"bleu": 40.0, "rouge_l": 0.5},
        outputs=Generation(["a b"], [[4, 5, 2]], [[6, 3, 3]]),
        item_scores={"rouge_l": [0.5]},
    )


def test_names() -> None:
    entry = Entry("calm", "softmax ~2x", 1)
    assert entry.label == str(entry.over_seeds) == "calm softmax ~2x"
    assert entry.slug == "calm-softmax-2x"
    assert entry.key == "calm-softmax-2x-seed-1"
    assert Setting.of({"method": "calm", "setting": "softmax ~2x", "seed": 3}) == entry.over_seeds


def test_a_record_survives_json() -> None:
    assert Record.from_plain(json.loads(json.dumps(record().plain()))) == record()


def test_there_is_one_row_per_timed_batch_size() -> None:
    row = {"method": "skipdecode", "setting": "2x", "seed": 0, "bleu": 40.0, "rouge_l": 0.5}
    assert record().rows() == [row]
    timings = [Timing({"batch_size": size, "decode_speedup": 1.5}, [2.0]) for size in (1, 4)]
    timed = record().with_timings(timings)
    assert timed.rows() == [row | {"batch_size": size, "decode_speedup": 1.5} for size in (1, 4)]
    assert timed.plain() == record().plain()


@pytest.mark.parametrize("change", [{"row": {}}, {"figures": None, "by_item": {}}])
def test_values_that_are_not_a_record_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="not a record of this version of skiplab"):
        Record.from_plain(record().plain() | change)
    with pytest.raises(ValueError, match="not a record of this version of skiplab"):
        Record.from_plain({"row": {}, "outputs": {}})
