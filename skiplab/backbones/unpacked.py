"""Checkpoints of other formats, converted once to folders that `from_pretrained` reads."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from skiplab.utils.files import fingerprint, writing


class Place(NamedTuple):
    """Where a checkpoint's weights are.

    Attributes:
        name: hub name or folder.
        revision: on the hub.
        identity: identifies the version of the sources of a converted folder; None if it was not converted.
    """

    name: str
    revision: str | None = None
    identity: str | None = None


def unpacked(name: str, make: Callable[[Path], None]) -> Path:
    """A folder in `SKIPLAB_CACHE`, or `~/.cache/skiplab`, which the first process that needs it fills.

    Args:
        make: fills a temporary folder, which is then renamed.

    Raises:
        DiskFullError: the disk is full.
    """
    cache = os.environ.get("SKIPLAB_CACHE") or Path.home() / ".cache" / "skiplab"
    folder = Path(cache).expanduser() / name
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{name}.lock")):
            if not folder.is_dir():
                partial = folder.with_name(f"{name}.{os.getpid()}")
                try:
                    make(partial)
                    partial.rename(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return folder


def version_of(*files: Path, **further: object) -> str:
    """A hash of files, by their names, sizes and times, and of further plain values."""
    stats = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    return fingerprint(files=stats, **further)
