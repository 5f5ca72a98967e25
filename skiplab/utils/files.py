"""Atomic file writes."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from skiplab.utils.interrupts import uninterrupted


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, whose name holds the old content or the new, never a part; see also `uninterrupted`.

    Raises:
        DiskFullError: there is no room for it; the old content stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with uninterrupted(), writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class DiskFullError(OSError):
    """There is no room to write to."""


class DamagedFileError(ValueError):
    """A file is not what was written to it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what libraries raise on a full disk into a `DiskFullError` that names the path."""
    try:
        yield
    except Exception as error:
        if not disk_full(error) or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(
            f"no room left to write {path}: make room on its disk, then run the same command again to resume"
        ) from error


def disk_full(error: BaseException | None) -> bool:
    """Whether an error or its cause is a full disk, an exceeded quota or a file size limit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if isinstance(error, DiskFullError) or any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


# Disk-full messages of native libraries.
_FULL = ("No space left on device", "File too large", "Disk quota exceeded", "database or disk is full")


def is_in_memory(url: str) -> bool:
    """Whether a sqlite database of this URL ends with its process."""
    return url.startswith("sqlite:") and (url.rstrip("/") == "sqlite:" or ":memory:" in url or "mode=memory" in url)


def make_writable(folder: Path) -> None:
    """Make a folder, with those above it, unless it is there.

    Raises:
        OSError: it cannot be made, or not be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(folder))


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole."""
    with whole_file(path) as file:
        file.write(text.encode())


def save_json(path: Path, content: Any) -> None:
    """Write plain values, whole."""
    write_text(path, json.dumps(content))


def fingerprint(**parts: Any) -> str:
    """A short hash of plain values: the name of what was made from them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_json(path: Path) -> Any | None:
    """What `save_json` wrote; None if there is no such file.

    Raises:
        DamagedFileError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is damaged ({error}); restore it, or remove it to have its contents made again"
        ) from error
