"""Rows of JSONL, CSV and Parquet files with their line numbers; broken lines come with a description of the fault."""

import codecs
import csv
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

Broken = Literal["refuse", "skip"]
Row = dict[str, Any] | str
"""A row by column, or a description of what is wrong with its line."""
# Marks bytes that are invalid in the encoding: half of a surrogate pair, which no decoded text contains.
_UNDECODED = "\udcff"
_MARKS = MappingProxyType(
    {
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
    }
)


class DataError(ValueError):
    """Files cannot be used; the message says why and what to do."""


def _undecoded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _UNDECODED, error.end


codecs.register_error("skiplab.undecoded", _undecoded)


def check_encoding(encoding: str) -> None:
    """Refuse names that are not text encodings."""
    try:
        "".encode(encoding)
    except LookupError as error:
        raise ValueError(
            f"data.encoding must be a text encoding of Python, such as utf-8, utf-16 or latin-1, got {encoding!r}"
        ) from error


def read_rows(path: Path, encoding: str) -> Iterator[tuple[int, Row]]:
    """Rows of a file, each with the number of its first line; in a Parquet file, with the number of the row.

    Args:
        encoding: of text files; a byte order mark at their beginning is skipped.

    Raises:
        DataError: the file is of another encoding, has no header, or is no Parquet file.
    """
    return READERS[path.suffix](path, encoding)


def report_broken(path: Path, bad: list[tuple[int, str]], broken: Broken) -> None:
    """Refuse a file with broken lines, or warn that they are skipped.

    Args:
        bad: line numbers, each with what is wrong.

    Raises:
        DataError: there are any, and they are not to be skipped.
    """
    if not bad:
        return
    line, fault = bad[0]
    message = f"{path}: {len(bad)} broken line(s), the first is line {line}"
    if broken == "refuse":
        raise DataError(f"{message}; {fault}; fix them, or leave them out with data.broken=skip")
    warnings.warn(f"{message}; skipped; {fault}", stacklevel=2)


def text_fault(column: str, value: Any) -> str | None:
    """What is wrong with a value that should be a text; None if it is one."""
    if isinstance(value, str):
        if not value.strip():
            return f"empty {column}"
        return f"{column} holds half of a surrogate pair" if _has_surrogates(value) else None
    kinds = {list: "a list", dict: "an object", bool: "true or false", int: "a number", float: "a number"}
    found = "nothing" if value is None else kinds.get(type(value), type(value).__name__)
    return f"{column} must hold a text, found {found}"


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _lines(path: Path, encoding: str, newline: str = "") -> Iterator[str]:
    with path.open("rb") as file:
        start = file.read(4)
    found = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if found and not codecs.lookup(encoding).name.startswith(found):
        raise DataError(
            f"{path}, line 1: the file begins like {found.upper()}, but data.encoding={encoding}; give "
            f"data.encoding={found}, or save the file as UTF-8"
        )
    with path.open(encoding=encoding, errors="skiplab.undecoded", newline=newline) as file:
        for number, line in enumerate(file):
            yield line.removeprefix("\ufeff") if number == 0 else line


def _line_fault(text: str, encoding: str) -> str | None:
    if _has_surrogates(text):
        return f"it is not {encoding}; give the file's encoding as data.encoding, such as latin-1"
    return "it holds NUL characters; is the file UTF-16, data.encoding=utf-16-le?" if "\0" in text else None


def _jsonl(path: Path, encoding: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_lines(path, encoding, "\n"), start=1):
        if not line.strip():
            continue
        if fault := _line_fault(line, encoding):
            yield number, fault
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield number, "it is no JSON object"
        else:
            yield number, row if isinstance(row, dict) else "it is no JSON object"


class _Reread:
    """Lines of a file; the lines of the last record can be read again.

    Attributes:
        number: lines before the record.
        record: the lines of the record so far.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self.number = 0
        self.record: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.record.append(line)
        return line

    def begin(self) -> None:
        """Start a record with the next line."""
        self.number += len(self.record)
        self.record = []

    def go_back(self) -> None:
        """Read all lines of the record again, except its first."""
        self._again.extendleft(reversed(self.record[1:]))
        del self.record[1:]


def _records(lines: _Reread) -> Iterator[tuple[int, list[str] | str]]:
    """Fields of each record with its first line, or what is wrong with that line; the next record begins after it."""
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin()
        try:
            fields: list[str] | str = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.go_back()
            reader = csv.reader(lines, strict=True)
            closed = "unexpected end" in str(error) or "expected after" in str(error)
            fields = "a quote is not closed, or stands inside a quoted field undoubled" if closed else str(error)
        yield lines.number + 1, fields


def _csv(path: Path, encoding: str) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**30)
    lines = _Reread(_lines(path, encoding))
    header: list[str] | None = None
    for number, fields in _records(lines):
        fault = _line_fault("".join(lines.record), encoding)
        if header is None:
            header = _header(path, number, fault or fields)
        elif fault or isinstance(fields, str):
            yield number, fault or str(fields)
        elif fields and len(fields) != len(header):
            few = "few" if len(fields) < len(header) else "many; a field with commas in it stands in quotes"
            yield number, f"{len(fields)} fields where the header has {len(header)}: too {few}"
        elif fields:
            yield number, dict(zip(header, fields, strict=True))


def _header(path: Path, line: int, fields: list[str] | str) -> list[str]:
    if isinstance(fields, str) or not fields:
        raise DataError(f"{path}, line {line}: expected the names of the columns; {fields or 'it is empty'}")
    if twice := sorted({name for name in fields if fields.count(name) > 1}):
        raise DataError(f"{path}, line {line}: the header names the column {twice[0]!r} twice; rename one")
    return fields


def _parquet(path: Path, encoding: str) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a complete Parquet file: {error}. Download or write it again") from error


READERS: dict[str, Callable[[Path, str], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
