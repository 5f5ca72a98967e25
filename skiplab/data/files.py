"""Prompts and targets from local JSONL, CSV and Parquet files, read row by row into memory-mapped Arrow tables."""

import csv
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from skiplab.data.source import Source
from skiplab.data.tokenizers import byte_bpe_tokenizer, first_texts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

Broken = Literal["refuse", "skip"]
# Names that a split's files begin with.
_SPLITS = {"train": ("train",), "valid": ("valid", "dev", "val"), "test": ("test",)}
_KINDS = (".jsonl", ".csv", ".parquet")
# One prompt in so many goes to each split that has no file.
_SHARE = 20


class DataError(ValueError):
    """Files cannot be used; the message says why and what to do."""


@final
@dataclass(frozen=True, kw_only=True)
class LocalFiles(Source):
    """A task of one's own.

    Args:
        dir: a file, or a folder with `train*`, and perhaps `valid*` and `test*`, each `.jsonl`, `.csv` or
            `.parquet`. Where a split has no file, a twentieth of the training prompts, chosen by their hash, is it.
        prompt, target: names of the columns; a target may be a list of references.
        broken: what becomes of a file with lines that are no JSON objects or lack a text: `refuse`, or `skip` them.
        vocab_size: entries of the byte-level BPE trained on the training split, where the backbone has no tokenizer.
    """

    dir: str
    prompt: str
    target: str
    broken: Broken = "refuse"
    vocab_size: int = 8192

    def __post_init__(self) -> None:
        check_vocab_size(self.vocab_size)

    @property
    def name(self) -> str:
        return f"{Path(self.dir).name}: {self.prompt} to {self.target}"

    def load(self) -> "DatasetDict":
        return read_folder(Path(self.dir), self.prompt, self.target, self.broken)

    def tokenizer(self, splits: "DatasetDict") -> "PreTrainedTokenizerFast":
        return byte_bpe_tokenizer(first_texts(splits["train"]), self.vocab_size)

    def item_scores(self, prompt: str, output: str) -> dict[str, float]:
        return {}


def check_vocab_size(size: int) -> None:
    """Refuse a byte-level BPE without room for all bytes."""
    if size < 300:
        raise ValueError(f"data vocab_size must be at least 300 (256 bytes and specials), got {size}")


def read_folder(place: Path, prompt: str, target: str, broken: Broken = "refuse") -> "DatasetDict":
    """Splits with columns `prompt` and `references` from the files of a folder, or from one file.

    Raises:
        DataError: there is no training file, a column is not there, or lines are broken and not to be skipped.
    """
    splits = {}
    for split, files in _found(place).items():
        if files:
            splits[split] = read_files(files, prompt, target, broken)
    return divide(splits)


def divide(splits: Mapping[str, "Dataset"]) -> "DatasetDict":
    """All three splits, those that are missing taken from the training split by their prompts' hashes."""
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


def read_files(files: list[Path], prompt: str, target: str, broken: Broken) -> "Dataset":
    """Rows of some files as one memory-mapped table, which is kept for as long as the files stay the same.

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
            gen_kwargs={"stamps": stamps, "prompt": prompt, "target": target, "broken": broken},
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


def _rows(stamps: list[list[Any]], prompt: str, target: str, broken: Broken) -> Iterator[dict[str, Any]]:
    count = 0
    for path, *_ in stamps:
        bad: list[int] = []
        for number, row in _READERS[Path(path).suffix](Path(path)):
            pair = None if row is None else _pair(row, prompt, target, Path(path))
            if pair is None:
                bad.append(number)
            else:
                count += 1
                yield pair
        if bad:
            message = f"{path}: {len(bad)} broken line(s), the first is line {bad[0]}"
            if broken == "refuse":
                raise DataError(f"{message}; mend them, or leave them out with data.broken=skip")
            warnings.warn(f"{message}; skipped", stacklevel=2)
    if not count:
        raise DataError(f"{', '.join(path for path, *_ in stamps)}: no rows")


def _pair(row: Mapping[str, Any], prompt: str, target: str, path: Path) -> dict[str, Any] | None:
    """Prompt and references of a row; None if one is empty or no text.

    Raises:
        DataError: a column is not there.
    """
    for option, column in (("prompt", prompt), ("target", target)):
        if column not in row:
            raise DataError(f"{path} has no column {column!r}; take one of {', '.join(row)} as data.{option}")
    source, references = row[prompt], row[target]
    references = [references] if isinstance(references, str) else references
    if not isinstance(source, str) or not source.strip() or not isinstance(references, list) or not references:
        return None
    if not all(isinstance(text, str) and text.strip() for text in references):
        return None
    return {"prompt": source.strip(), "references": [text.strip() for text in references]}


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else None


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    csv.field_size_limit(2**30)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, row


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    import pyarrow.parquet

    rows: Iterable[dict[str, Any]] = (
        row for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1000) for row in batch.to_pylist()
    )
    yield from enumerate(rows, start=1)


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
