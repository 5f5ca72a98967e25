"""Checkpoints from which a training resumes with identical results."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, final

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from skiplab.utils.files import whole_file

# Of a checkpoint: the number of parts in which each process handles its share of a batch.
_PARTS = "accumulate"
# Largest share of the training time spent writing checkpoints.
_SHARE = 0.05


@final
class Checkpoints(Checkpoint):
    """Writes checkpoints between steps, and keeps the last two.

    A checkpoint holds weights, optimizer state, the loader's position and torch's RNG states, so that a resumed
    training takes the same steps as an uninterrupted one.

    Args:
        every: seconds between two checkpoints, or more if writing one takes more than a twentieth of that; 0 writes
            one after each step.
    """

    def __init__(self, folder: Path, every: float) -> None:
        self._folder = folder
        self._every = self._pause = every
        self._last = monotonic()
        self._generators: Mapping[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = WholeFiles()

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._generators = state_dict

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_PARTS] = trainer.accumulate_grad_batches

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        before, now = checkpoint.get(_PARTS, trainer.accumulate_grad_batches), trainer.accumulate_grad_batches
        if before == now:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            # Lightning counts parts of batches. The last one is completed only after the checkpoint.
            open_parts = counts["ready"] - counts["completed"]
            done = counts["ready"] // before * now
            counts |= dict.fromkeys(("ready", "started", "processed"), done) | {"completed": done - open_parts}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning does this itself, unless something asked for the number of steps before, as learning rates do.
        if trainer.fit_loop.restarting:
            batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            trainer.train_dataloader.load_state_dict({"batches": batches})  # type: ignore[union-attr]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Restored only here, because Lightning may draw random numbers before the first step.
        # The checkpoint has only the first rank's RNG state, which other ranks must not take over.
        if (state := self._generators) is not None and trainer.world_size == 1:
            self._generators = None
            torch.set_rng_state(state["cpu"])
            if len(state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Accumulated gradients are not saved, and validation follows the last step of an epoch.
        between = (
            batch_idx + 1
        ) % trainer.accumulate_grad_batches == 0 and batch_idx + 1 < trainer.num_training_batches
        if between and self._due(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._due(trainer):
            self._save(trainer)

    def _due(self, trainer: L.Trainer) -> bool:
        # All processes take part in a checkpoint, or none.
        return trainer.strategy.broadcast(monotonic() - self._last >= self._pause)

    def _save(self, trainer: L.Trainer) -> None:
        began = monotonic()
        if trainer.is_global_zero:
            # Remove older checkpoints, and partial files of killed processes.
            for old in (*stored(self._folder)[1:], *self._folder.glob(".*.ckpt.*")):
                old.unlink()
        trainer.save_checkpoint(self._folder / f"step-{trainer.global_step}.ckpt")
        self._last = monotonic()
        if self._every:
            self._pause = max(self._every, (self._last - began) / _SHARE)


@final
class WholeFiles(CheckpointIO):
    """Checkpoint files written atomically, without a second copy in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def stored(folder: Path) -> list[Path]:
    """The folder's checkpoints, the latest first."""
    found = {int(match[1]): path for path in folder.glob("*.ckpt") if (match := re.fullmatch(r"step-(\d+)", path.stem))}
    return [found[step] for step in sorted(found, reverse=True)]


def latest(folder: Path) -> Path | None:
    """The latest readable checkpoint, or None; damaged ones are reported and removed."""
    for path in stored(folder):
        if (damage := _damage(path)) is None:
            return path
        warnings.warn(f"the checkpoint {path} is damaged ({damage}); resuming from the previous one", stacklevel=2)
        path.unlink()
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: torch writes zip files, which have a checksum per entry."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return None if broken is None else f"in {broken}"
