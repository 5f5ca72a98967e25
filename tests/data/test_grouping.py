"""Grouping of rows with the same prompt into one item."""

import json
from pathlib import Path

import pytest

from skiplab.data.files import LocalFiles
from skiplab.data.hub import HubTask


def write(path: Path, names: range) -> None:
    """Write three references per prompt, far apart in the file."""
    forms = ("The {} serves pie.", "Eat pie at the {}.", "{}: a pub with pie.")
    rows = [{"mr": f"name[{name}]", "ref": form.format(name)} for form in forms for name in names]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_rows_of_one_prompt_are_one_item_with_all_references(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", range(10, 90))
    write(tmp_path / "test.jsonl", range(4))
    splits = LocalFiles(dir=str(tmp_path), prompt="mr", target="ref").load()
    assert splits["test"][3] == {
        "prompt": "name[3]", "references": ["The 3 serves pie.", "Eat pie at the 3.", "3: a pub with pie."]
    }  # fmt: skip
    assert len(splits["test"]) == 4
    # The validation split is taken from the training file; a prompt is in only one of them.
    assert len(splits["train"]) + len(splits["valid"]) == 80
    assert not set(splits["train"]["prompt"]) & set(splits["valid"]["prompt"])
    assert all(len(references) == 3 for references in splits["valid"]["references"])


def test_prompts_that_are_equal_after_stripping_are_one_item(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", range(10, 90))
    lines = [{"mr": prompt, "ref": f"{n}"} for n, prompt in enumerate(["a", "a TL;DR:", "b"])]
    (tmp_path / "test.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    splits = HubTask(hub="some/task", prompt="mr", target="ref", strip="TL;DR:", dir=str(tmp_path)).load()
    assert splits["test"].to_dict() == {"prompt": ["a", "b"], "references": [["0", "1"], ["2"]]}


def test_a_prompt_in_two_splits_gives_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", range(10, 90))
    write(tmp_path / "test.jsonl", range(88, 92))
    with pytest.warns(UserWarning, match=r"^2 prompt\(s\) of the test split are in the train split too"):
        LocalFiles(dir=str(tmp_path), prompt="mr", target="ref").load()
