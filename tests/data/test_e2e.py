"""The E2E challenge's files."""

import os
from pathlib import Path

import pytest

from skiplab.data.e2e import E2E

REAL = Path(os.environ.get("SKIPLAB_E2E", Path(__file__).parents[2].parent / "shared" / "data" / "e2e"))


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "devset.csv", "mr,ref\n" + "".join(f'"name[N{i}], food[F]",N{i} serves F.\n' for i in range(6)))
    write(tmp_path, "testset_w_refs.csv", 'mr,ref\nname[Ä],"Ä, it is."\nname[B],B.\nname[Ä],"Say ""Ä""."\n')
    return tmp_path


def test_all_references_of_a_meaning_are_one_item(folder: Path) -> None:
    splits = E2E(dir=str(folder), holdout=3).load()
    assert splits["test"].to_dict() == {
        "prompt": ["name[Ä]", "name[B]"],
        "references": [["Ä, it is.", 'Say "Ä".'], ["B."]],
    }


def test_without_a_training_file_the_dev_split_is_divided_into_training_and_holdout(folder: Path) -> None:
    source = E2E(dir=str(folder), holdout=3)
    splits = source.load()
    assert [len(splits[name]) for name in ("train", "valid")] == [4, 2]
    assert not set(splits["train"]["prompt"]) & set(splits["valid"]["prompt"])
    assert source.name == "e2e (trained on the dev split)"


def test_with_a_training_file_the_dev_split_is_used_for_validation(folder: Path) -> None:
    write(folder, "trainset.csv", "mr,ref\nname[T],T.\n")
    source = E2E(dir=str(folder))
    splits = source.load()
    assert splits["train"]["prompt"][:] == ["name[T]"]
    assert len(splits["valid"]) == 6
    assert source.name == "e2e (trained on the train split)"


def test_tokens_decode_to_the_text(folder: Path) -> None:
    source = E2E(dir=str(folder), vocab_size=300)
    tokenizer = source.tokenizer(source.load())
    text = 'Unseen ünïcode, "quotes".'
    (decoded,) = tokenizer.batch_decode([tokenizer(text, add_special_tokens=False)["input_ids"]])
    assert decoded.strip() == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no devset.csv in .*data.dir must be the folder of the E2E CSV files"),
        ("", "the train split of the E2E files in .* is empty"),
        ("mr,text\na,b\n", "lacks the column ref: expected mr and ref, found mr, text"),
        (
            "mr,ref\nname[A],fine\nname[A], \n",
            r"devset.csv: 1 broken line\(s\), the first is line 3; empty ref",
        ),
        ("mr,ref\nname[A]\n", "devset.csv: .* line 2; 1 fields where the header has 2: too few"),
        ("mr,ref\n", "the train split of the E2E files in .* is empty"),
    ],
)
def test_bad_files_say_what_is_wrong(folder: Path, content: str | None, message: str) -> None:
    if content is None:
        (folder / "devset.csv").unlink()
    else:
        write(folder, "devset.csv", content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        E2E(dir=str(folder)).load()


@pytest.mark.skipif(
    not (REAL / "devset.csv").exists(), reason=f"no E2E files in {REAL}; set SKIPLAB_E2E to their folder"
)
def test_the_original_files() -> None:
    splits = E2E(dir=str(REAL)).load()
    assert len(splits["train"]) + len(splits["valid"]) == 547
    assert len(splits["test"]) == 630
    assert sum(map(len, splits["test"]["references"])) == 4693
