"""Files that a reader, or a crash, finds whole."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file so that its name holds the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def save_json(path: Path, content: Any) -> None:
    """Write plain values, whole."""
    write_text(path, json.dumps(content))


def fingerprint(**parts: Any) -> str:
    """A short hash of plain values: the name of what was made from them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_json(path: Path) -> Any | None:
    """What `save_json` wrote; None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
