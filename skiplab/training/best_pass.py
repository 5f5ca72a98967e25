"""Keep the weights of the pass with the lowest validation loss, instead of the last."""

import os
from pathlib import Path
from typing import Any, final

import lightning as L
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_model

from skiplab.backbones.whole_weights import copy_whole


@final
class BestPass(Callback):
    """Stores the weights whenever a pass lowers the validation loss, and restores the best ones at the end of training.
    A resumed training finds the same pass.

    Args:
        folder: for the stored weights, which are removed at the end.

    Attributes:
        number: number of the best pass so far, from 1; 0 before the first.
        loss: its validation loss.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "best.safetensors"
        self.number = 0
        self.loss = float("inf")

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number, "loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.number, self.loss = state_dict["number"], state_dict["loss"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not (loss := validation_loss(trainer)) < self.loss:
            return
        self.number, self.loss = trainer.current_epoch + 1, loss
        if trainer.is_global_zero:
            partial = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            save_model(pl_module, os.fspath(partial))
            partial.replace(self._file)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.strategy.barrier()
        if self.number:
            copy_whole(pl_module, self._file)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self._file.unlink(missing_ok=True)


def validation_loss(trainer: L.Trainer) -> float:
    """The validation loss of the last pass; NaN before the first."""
    losses = [float(loss) for name, loss in trainer.callback_metrics.items() if name.endswith("valid_loss")]
    return losses[-1] if losses else float("nan")
