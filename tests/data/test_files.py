"""Local JSONL, CSV and Parquet files, valid and broken."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from skiplab.data.files import DataError, LocalFiles
from skiplab.data.hub import HubTask
from skiplab.data.module import TextData

ROWS = [{"question": f"what is {n} plus {n}?", "answer": f"it is {2 * n}", "id": n} for n in range(200)]


def write_jsonl(path: Path, rows: list[Any] = ROWS) -> None:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer", "id"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    Dataset.from_list(ROWS).to_parquet(path)


def task(place: Path, **options: Any) -> LocalFiles:
    columns: dict[str, Any] = {"prompt": "question", "target": "answer"}
    return LocalFiles(dir=str(place), **(columns | options))


@pytest.mark.parametrize(
    ("name", "write"), [("train.jsonl", write_jsonl), ("train.csv", write_csv), ("train-0.parquet", write_parquet)]
)
def test_every_format_gives_the_same_rows_and_splits(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    splits = task(tmp_path).load()
    pairs = {row["prompt"]: row["references"] for split in splits.values() for row in split.to_list()}
    assert pairs == {row["question"]: [row["answer"]] for row in ROWS}
    sizes = {split: len(rows) for split, rows in splits.items()}
    assert sizes["train"] > 160
    assert min(sizes.values()) >= 2
    write_jsonl(tmp_path / "all.jsonl")
    again = task(tmp_path / "all.jsonl").load()
    assert {split: rows["prompt"][:] for split, rows in again.items()} == {
        split: rows["prompt"][:] for split, rows in splits.items()
    }


def test_splits_with_their_own_files_are_used_unchanged(tmp_path: Path) -> None:
    for name, rows in (("train", ROWS[:100]), ("validation", ROWS[100:110]), ("test", ROWS[110:])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    assert {split: len(rows) for split, rows in task(tmp_path).load().items()} == {
        "train": 100, "valid": 10, "test": 90,
    }  # fmt: skip


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS[5:])
    write_jsonl(tmp_path / "test.jsonl", ROWS[:3])
    assert len(task(tmp_path).load()["test"]) == 3
    write_jsonl(tmp_path / "test.jsonl", ROWS[:5])
    assert len(task(tmp_path).load()["test"]) == 5


def test_a_target_may_be_a_list_of_references(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [row | {"answer": [row["answer"], "no idea"]} for row in ROWS])
    assert task(tmp_path).load()["test"][0]["references"][1] == "no idea"


def test_broken_lines_are_counted_and_refused_or_skipped(tmp_path: Path) -> None:
    lines = [*ROWS[:2], '{"question": "cut o', *ROWS[2:], "[1, 2]", {"question": "", "answer": "x"}]
    write_jsonl(tmp_path / "train.jsonl", lines)
    with pytest.raises(DataError, match=r"train.jsonl: 3 broken line\(s\), the first is line 3; .* data.broken=skip"):
        task(tmp_path).load()
    with pytest.warns(UserWarning, match=r"3 broken line\(s\), the first is line 3; skipped"):
        splits = task(tmp_path, broken="skip").load()
    assert sum(map(len, splits.values())) == len(ROWS)


def test_missing_files_and_columns_are_named_with_those_that_exist(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=r"no column 'reply'; take one of question, answer, id as data.target"):
        task(tmp_path, target="reply").load()
    (tmp_path / "train.jsonl").rename(tmp_path / "data.jsonl")
    with pytest.raises(DataError, match=r"no file whose name begins with train .* it holds data.jsonl"):
        task(tmp_path).load()
    with pytest.raises(DataError, match=r"no folder or .jsonl, .csv, .parquet file /nowhere"):
        task(Path("/nowhere")).load()
    write_jsonl(tmp_path / "train.jsonl", ["", ""])
    with pytest.raises(DataError, match="no rows"):
        task(tmp_path).load()
    write_jsonl(tmp_path / "train.jsonl", ROWS[:2])
    with pytest.raises(DataError, match=r"2 rows leave none for the .* split; give it a file of its own"):
        task(tmp_path).load()


def test_pairs_stay_on_disk_and_are_cached(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    first, second = (TextData(task(tmp_path, vocab_size=300), batch_size=4, max_new_tokens=20) for _ in range(2))
    files = {file["filename"] for file in first.train_pairs._rows.cache_files}
    assert files
    assert files == {file["filename"] for file in second.train_pairs._rows.cache_files}
    assert first.train_pairs[:3] == second.train_pairs[:3]
    assert first.train_pairs.lengths[5] == tuple(map(len, first.train_pairs[5]))


def test_hub_tasks_accept_local_copies(tmp_path: Path) -> None:
    options: dict[str, Any] = {"hub": "some/task", "prompt": "post", "target": "summary", "strip": "TL;DR:"}
    with pytest.raises(DataError, match=r"cannot get some/task from the Hugging Face hub: .* columns post and summary"):
        HubTask(**options).load()
    write_jsonl(tmp_path / "train.jsonl", [{"post": f"post {n}\nTL;DR:", "summary": f"sum {n}"} for n in range(200)])
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("{cut o\n")
    with pytest.raises(DataError, match=r"1 broken line\(s\), the first is line 201; .* data.broken=skip"):
        HubTask(**options, dir=str(tmp_path)).load()
    with pytest.warns(UserWarning, match="skipped"):
        splits = HubTask(**options, dir=str(tmp_path), broken="skip").load()
    assert all(row["prompt"].startswith("post ") and "TL;DR" not in row["prompt"] for row in splits["train"].to_list())
