"""Trained weights on disk, as folders that `from_pretrained` reads."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from skiplab.backbones.adapters import adapt
from skiplab.backbones.whole_weights import CheckpointError, copy_whole, load_whole
from skiplab.engine.backbone import Backbone
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.files import writing
from skiplab.utils.locks import exclusive


def saved(folder: Path, ranks: Ranks = ALONE) -> bool:
    """Whether a folder holds trained weights, checked on the first rank."""
    return ranks.on_first(lambda: any(folder.glob("*.safetensors")))


def load_backbone(folder: Path, dtype: torch.dtype | None = None) -> Backbone:
    """The backbone of a model that `save_pretrained` wrote, ready for training.

    Args:
        dtype: number format of the weights; None is the folder's. Rotary frequencies stay float32.

    Raises:
        CheckpointError: the folder does not hold all the weights.
    """
    try:
        return adapt(load_whole(folder, dtype=dtype or "auto").train())
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises errors of many types for a damaged configuration
        raise CheckpointError(f"cannot load {folder}: {type(error).__name__}: {error}") from error


def overwrite(model: PreTrainedModel, folder: Path) -> None:
    """Overwrite a model's weights in place, one by one, with those of a folder that holds the same kind of model.

    Raises:
        CheckpointError: the folder's model has another shape, or is incomplete.
    """
    with retrainable(folder):
        copy_whole(model, folder / "model.safetensors")


@contextmanager
def retrainable(folder: Path) -> Iterator[None]:
    """Adds to errors of reading a folder that skiplab trains the weights again if the folder is removed.

    Raises:
        CheckpointError: the block raised one.
    """
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Or remove the folder {folder}: its weights are then trained again") from error


def load_or_train(
    model: nn.Module,
    folder: Path,
    train: Callable[[Path], None],
    complete: Callable[[Path], object] = lambda folder: None,
    ranks: Ranks = ALONE,
) -> None:
    """Load the folder's weights into a model; if there are none, train the model and save it there.

    One job at a time trains for a folder; others wait and load.

    Args:
        train: trains the model in place, and may leave it sharded over the ranks; its argument is a folder for
            checkpoints, which is removed at the end, except for its JSON files, which are kept beside the weights.
        complete: adds files to the folder before it becomes visible.

    Raises:
        CheckpointError: the folder's weights are damaged or another model's.
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
        with retrainable(folder):
            copy_whole(model, weights)
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
    """The gathered weights of a sharded model, on the rank that saves them; None if it is not sharded."""
    if not any(isinstance(weight, DTensor) for weight in model.parameters()):
        return None
    gathered: dict[int, Any] = {}
    names: dict[str, Any] = model.state_dict(keep_vars=True)
    for weight in names.values():
        # Gather tied weights once.
        if id(weight) not in gathered:
            full = weight.full_tensor().cpu() if isinstance(weight, DTensor) else weight
            gathered[id(weight)] = full if keep else None
    return {name: gathered[id(weight)] for name, weight in names.items()}


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which is then renamed; partial folders of killed processes are removed."""
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
