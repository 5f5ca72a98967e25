"""What is done beside the steps of a training."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, final

import lightning as L
from lightning.pytorch.callbacks import Callback

from skiplab.utils.progress import Progress


@final
@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """What is done beside the steps of a training.

    Attributes:
        checkpoint_every: seconds, as for `Checkpoints`.
        progress: the steps pass through it one after the other.
    """

    checkpoint_every: float = 60.0
    progress: Progress = iter


NO_UPKEEP = Upkeep()
"""Checkpoints every minute, and nothing shown."""


@final
class StepProgress(Callback):
    """Passes a training's steps through a `Progress`; those of an interrupted run are not counted again."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: Iterator[Any] = iter(())
        self._shown = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._shown = trainer.global_step
        self._steps = iter(self._progress(range(self._shown, int(trainer.estimated_stepping_batches))))
        next(self._steps, None)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        while self._shown < trainer.global_step:
            self._shown += 1
            next(self._steps, None)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        # A generator takes its bar away when it is closed.
        if isinstance(self._steps, Generator):
            self._steps.close()
        self._steps = iter(())
