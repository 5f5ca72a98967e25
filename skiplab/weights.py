"""Trained weights on disk, as folders that `from_pretrained` reads."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PreTrainedModel


def fingerprint(**parts: Any) -> str:
    """A short hash of plain values: the name of what was made from them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_or_train(model: nn.Module, folder: Path, train: Callable[[Path], None]) -> bool:
    """Give a model the folder's weights; if there are none, train them and keep them there.

    One process at a time trains for a folder; others wait and load.

    Args:
        train: trains the model in place; its argument is a folder for checkpoints, removed in the end.

    Returns:
        Whether it trained.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        return _load_or_train(model, folder, train)


def _load_or_train(model: nn.Module, folder: Path, train: Callable[[Path], None]) -> bool:
    weights = folder / "model.safetensors"
    if weights.exists():
        load_model(model, weights)
        model.eval()
        return False
    checkpoints = folder.with_name(f"{folder.name}.training")
    train(checkpoints)
    model.eval()
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    if isinstance(model, PreTrainedModel):
        model.save_pretrained(partial)
    else:
        partial.mkdir()
        save_model(model, os.fspath(partial / weights.name))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return True
