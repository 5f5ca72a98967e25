"""Trained weights on disk, as folders that `from_pretrained` reads."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from skiplab.backbone import Backbone
from skiplab.backbones.adapters import adapt


def saved(folder: Path) -> bool:
    """Whether a folder holds trained weights."""
    return any(folder.glob("*.safetensors"))


def load_backbone(folder: Path) -> Backbone:
    """The view over a model that `save_pretrained` wrote, its weights held once, ready to be trained."""
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    return adapt(model.train())


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
        model.save_pretrained(partial, max_shard_size="1TB")
    else:
        partial.mkdir()
        save_model(model, os.fspath(partial / weights.name))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return True
