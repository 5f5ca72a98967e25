"""Trained weights on disk, as folders that `from_pretrained` reads."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from skiplab.backbones.adapters import adapt
from skiplab.engine.backbone import Backbone
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.files import writing
from skiplab.utils.locks import exclusive


def saved(folder: Path, ranks: Ranks = ALONE) -> bool:
    """Whether a folder holds trained weights, as the first rank sees it."""
    return ranks.on_first(lambda: any(folder.glob("*.safetensors")))


def load_backbone(folder: Path, dtype: torch.dtype | None = None) -> Backbone:
    """The view over a model that `save_pretrained` wrote, its weights held once, ready to be trained.

    Args:
        dtype: number format of the weights; None is the folder's. What positions are rotated by stays float32.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False
    )
    return adapt(model.train())


@torch.no_grad()
def overwrite(model: PreTrainedModel, folder: Path) -> None:
    """Give a model the weights of a folder that holds one like it, in place and one at a time.

    Raises:
        ValueError: the folder's model is another.
    """
    own = model.state_dict(keep_vars=True)
    lacking = {weight.data_ptr() for weight in own.values()}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            weight = file.get_tensor(name)
            if name not in own or own[name].shape != weight.shape:
                raise ValueError(f"{folder} holds weights of another model: {name} of shape {tuple(weight.shape)}")
            own[name].copy_(weight)
            lacking.discard(own[name].data_ptr())
    if lacking:
        missing = sorted(name for name, weight in own.items() if weight.data_ptr() in lacking)
        raise ValueError(f"{folder} holds weights of another model: it lacks {', '.join(missing)}")


def load_or_train(
    model: nn.Module,
    folder: Path,
    train: Callable[[Path], None],
    complete: Callable[[Path], object] = lambda folder: None,
    ranks: Ranks = ALONE,
) -> None:
    """Give a model the folder's weights; if there are none, train them and keep them there.

    One job at a time trains for a folder; others wait and load.

    Args:
        train: trains the model in place, and may leave it sharded over the ranks; its argument is a folder for
            checkpoints, removed in the end but for JSON files, which are kept beside the weights.
        complete: adds files to the folder, which comes into being whole.

    Raises:
        DiskFullError: there is no room for the weights; the last checkpoint stays.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = exclusive(folder.with_name(f"{folder.name}.lock"), f"the weights {folder}")
        with lock if ranks.is_first else nullcontext():
            _load_or_train(model, folder, train, complete, ranks)


def _load_or_train(
    model: nn.Module, folder: Path, train: Callable[[Path], None], complete: Callable[[Path], object], ranks: Ranks
) -> None:
    weights = folder / "model.safetensors"
    if ranks.on_first(weights.exists):
        load_model(model, weights)
        model.eval()
        return
    checkpoints = folder.with_name(f"{folder.name}.training")
    train(checkpoints)
    model.eval()
    state = _gathered(model, keep=ranks.is_first)

    def save() -> None:
        with _whole_folder(folder) as partial:
            if isinstance(model, PreTrainedModel):
                model.save_pretrained(partial, state_dict=state, max_shard_size="1TB")
            else:
                save_model(model, os.fspath(partial / weights.name))
            for file in checkpoints.glob("*.json*"):
                shutil.copy(file, partial)
            complete(partial)
        shutil.rmtree(checkpoints, ignore_errors=True)

    ranks.on_first(save)


@torch.no_grad()
def _gathered(model: nn.Module, *, keep: bool) -> dict[str, Any] | None:
    """All weights of a model that is sharded over the ranks, where they are to be kept; None if it is not sharded."""
    if not any(isinstance(weight, DTensor) for weight in model.parameters()):
        return None
    gathered: dict[int, Any] = {}
    names: dict[str, Any] = model.state_dict(keep_vars=True)
    for weight in names.values():
        # Tied weights once.
        if id(weight) not in gathered:
            full = weight.full_tensor().cpu() if isinstance(weight, DTensor) else weight
            gathered[id(weight)] = full if keep else None
    return {name: gathered[id(weight)] for name, weight in names.items()}


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which then takes the name; what killed processes left half filled goes."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
