"""Prompts and targets from local JSONL, CSV and Parquet files, read row by row into memory-mapped Arrow tables."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from skiplab.data.grouping import grouped
from skiplab.data.rows import READERS, Broken, DataError, check_encoding, read_rows, report_broken, text_fault
from skiplab.data.source import Source
from skiplab.data.tokenizers import byte_bpe_tokenizer, first_texts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

# Prefixes of the names of a split's files.
_SPLITS = MappingProxyType({"train": ("train",), "valid": ("valid", "dev", "val"), "test": ("test",)})
_KINDS = tuple(READERS)
# A split without a file gets one in `_SHARE` training prompts.
_SHARE = 20


@final
@dataclass(frozen=True, kw_only=True)
class LocalFiles(Source):
    """The user's own task.

    Args:
        dir: a file, or a folder with `train*`, and perhaps `valid*` and `test*`, each `.jsonl`, `.csv` or
            `.parquet`. A split without a file gets a twentieth of the training prompts, chosen by hash.
        prompt, target: names of the columns; a target may be a list of references. Rows with the same prompt
            are one item with all their references.
        broken: how broken lines are handled: `refuse` the file, or `skip` the lines. A line is broken if it is not a
            JSON object, has more or fewer fields than the header, does not close a quote, is not in the encoding, or
            lacks a text.
        encoding: of JSONL and CSV files.
        vocab_size: entries of the byte-level BPE trained on the training split, where the backbone has no tokenizer.
    """

    dir: str
    prompt: str
    target: str
    broken: Broken = "refuse"
    encoding: str = "utf-8"
    vocab_size: int = 8192

    def __post_init__(self) -> None:
        check_vocab_size(self.vocab_size)
        check_encoding(self.encoding)

    @property
    def name(self) -> str:
        return f"{Path(self.dir).name}: {self.prompt} to {self.target}"

    def load(self) -> "DatasetDict":
        return grouped(read_folder(Path(self.dir), self.prompt, self.target, self.broken, self.encoding))

    def tokenizer(self, splits: "DatasetDict") -> "PreTrainedTokenizerFast":
        return byte_bpe_tokenizer(first_texts(splits["train"]), self.vocab_size)

    def item_scores(self, prompt: str, output: str) -> dict[str, float]:
        return {}


def check_vocab_size(size: int) -> None:
    """Refuse a byte-level BPE without room for all bytes."""
    if size < 300:
        raise ValueError(f"data vocab_size must be at least 300 (256 bytes and specials), got {size}")


def read_folder(
    place: Path, prompt: str, target: str, broken: Broken = "refuse", encoding: str = "utf-8"
) -> "DatasetDict":
    """Splits with columns `prompt` and `references` from the files of a folder, or from one file.

    Raises:
        DataError: there is no training file, a column is missing, or lines are broken and `broken` is `refuse`.
    """
    splits = {}
    for split, files in _found(place).items():
        if files:
            splits[split] = read_files(files, prompt, target, broken, encoding)
    return divide(splits)


def divide(splits: Mapping[str, "Dataset"]) -> "DatasetDict":
    """All three splits; missing ones are taken from the training split by the hash of the prompt."""
    from datasets import DatasetDict

    missing = [split for split in ("valid", "test") if split not in splits]
    train = splits["train"]
    parts: dict[str, list[int]] = {split: [] for split in ("train", *missing)}
    if missing:
        for index, prompt in enumerate(train["prompt"]):
            bucket = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) % _SHARE
            parts[missing[bucket] if bucket < len(missing) else "train"].append(index)
        for split, members in parts.items():
            if not members:
                raise DataError(f"{len(train)} rows leave none for the {split} split; give it a file of its own")
    cut = {split: train.select(members) for split, members in parts.items()} if missing else {}
    return DatasetDict({split: cut.get(split) or splits[split] for split in ("train", "valid", "test")})


def read_files(files: list[Path], prompt: str, target: str, broken: Broken, encoding: str = "utf-8") -> "Dataset":
    """Rows of several files as one memory-mapped table, which is cached until a file changes.

    Raises:
        DataError: as for `read_folder`.
    """
    import datasets
    from datasets import Dataset, Features, Value
    from datasets.exceptions import DatasetGenerationError

    stamps = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    silent = datasets.are_progress_bars_disabled()
    datasets.enable_progress_bars()
    try:
        return Dataset.from_generator(
            _rows,
            features=Features({"prompt": Value("string"), "references": datasets.List(Value("string"))}),
            gen_kwargs={"stamps": stamps, "prompt": prompt, "target": target, "broken": broken, "encoding": encoding},
        )
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None
    finally:
        if silent:
            datasets.disable_progress_bars()


def _found(place: Path) -> dict[str, list[Path]]:
    """Files by split."""
    if place.is_file() and place.suffix in _KINDS:
        return {"train": [place]}
    if not place.is_dir():
        raise DataError(f"no folder or {', '.join(_KINDS)} file {place}: give one as data.dir=PATH")
    files = sorted(file for file in place.iterdir() if file.suffix in _KINDS)
    found = {split: [file for file in files if file.name.startswith(names)] for split, names in _SPLITS.items()}
    if not found["train"]:
        raise DataError(
            f"{place} has no file whose name begins with train and ends in {', '.join(_KINDS)}; it holds "
            f"{', '.join(sorted(file.name for file in place.iterdir())[:8]) or 'nothing'}"
        )
    return found


def _rows(stamps: list[list[Any]], prompt: str, target: str, broken: Broken, encoding: str) -> Iterator[dict[str, Any]]:
    count = 0
    for path, *_ in stamps:
        bad: list[tuple[int, str]] = []
        for number, row in read_rows(Path(path), encoding):
            pair = row if isinstance(row, str) else _pair(row, prompt, target, Path(path))
            if isinstance(pair, str):
                bad.append((number, pair))
            else:
                count += 1
                yield pair
        report_broken(Path(path), bad, broken)
    if not count:
        raise DataError(f"{', '.join(path for path, *_ in stamps)}: no rows")


def _pair(row: Mapping[str, Any], prompt: str, target: str, path: Path) -> dict[str, Any] | str:
    """Prompt and references of a row, or what is wrong with it.

    Raises:
        DataError: a column is missing.
    """
    for option, column in (("prompt", prompt), ("target", target)):
        if column not in row:
            raise DataError(f"{path} has no column {column!r}; take one of {', '.join(row)} as data.{option}")
    source, references = row[prompt], row[target]
    if references == []:
        return f"{target} holds no reference"
    references = references if isinstance(references, list) else [references]
    faults = [text_fault(prompt, source), *(text_fault(target, text) for text in references)]
    if fault := next(filter(None, faults), None):
        return fault
    return {"prompt": source.strip(), "references": [text.strip() for text in references]}
