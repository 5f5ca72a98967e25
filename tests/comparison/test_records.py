"""The records of a comparison's settings."""

from pathlib import Path

from skiplab.comparison.records import Records
from skiplab.reporting.record import Timing
from skiplab.utils.run_folder import RunFolder
from tests.reporting.test_record import record

SKIP, FULL, OTHER = record(), record("full", "1x"), record("calm", "state 0.9")


def test_finished_records_are_read_in_the_order_of_rows(tmp_path: Path) -> None:
    entries = [FULL.entry, SKIP.entry, OTHER.entry]
    records = Records(RunFolder(tmp_path), entries)
    assert records.finished() == []
    records.add(SKIP)
    records.add(FULL)
    assert records.finished() == Records(RunFolder(tmp_path), entries).finished() == [FULL, SKIP]
    assert records.get(OTHER.entry) is None


def test_each_record_is_read_once(tmp_path: Path) -> None:
    Records(RunFolder(tmp_path), [SKIP.entry]).add(SKIP)
    records = Records(RunFolder(tmp_path), [SKIP.entry])
    (tmp_path / "settings" / f"{SKIP.entry.key}.json").unlink()
    assert records.get(SKIP.entry) == SKIP


def test_timings_of_a_later_run_replace_all_earlier_ones(tmp_path: Path) -> None:
    entries = [FULL.entry, SKIP.entry]
    records = Records(RunFolder(tmp_path), entries)
    records.add(SKIP)
    records.add(FULL)
    speed = Timing({"batch_size": 4, "decode_speedup": 2.0}, [1.0, 2.0])
    records.add_timings({FULL.entry: [speed], SKIP.entry: [speed]})
    assert Records(RunFolder(tmp_path), entries).finished() == records.finished()
    assert records.finished()[1].timings == (speed,)
    records.add_timings({SKIP.entry: [speed]})
    assert [one.timings for one in records.finished()] == [(), (speed,)]
