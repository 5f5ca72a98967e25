"""Train a module with Lightning's Trainer, from where an earlier run of it was cut off."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from skiplab.checkpoints import Checkpoints, latest
from skiplab.data.module import TextData
from skiplab.files import save_json
from skiplab.module import ExitModule, Optimization, TrainedModule

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


# Beside the weights, where memory did not hold a batch: the share of it that went through the model at a time.
BATCH_PART = "batch_part.json"


@dataclass(frozen=True, kw_only=True)
class TrainerSpec:
    """One training's length, optimizer and device.

    Args:
        max_epochs: passes over the training split.
        batch_size: examples per step.
        gradient_clip: largest gradient norm.
        precision, accelerator, devices: as in `lightning.Trainer`.
        gradient_checkpointing: whether the backward pass computes the layers' inner states again instead of
            keeping them.
        compile: backend of `torch.compile`, such as inductor, for the decoder layers one by one; None runs them
            as they are.
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98
    gradient_clip: float = 1.0
    precision: str = "32-true"
    accelerator: str = "cpu"
    devices: int = 1
    gradient_checkpointing: bool = False
    compile: str | None = None

    def __post_init__(self) -> None:
        if self.max_epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"trainer max_epochs and batch_size must be at least 1, got {self.max_epochs} and {self.batch_size}"
            )
        if self.compile is not None and self.compile not in torch.compiler.list_backends(exclude_tags=()):
            known = ", ".join(torch.compiler.list_backends())
            raise ValueError(f"unknown trainer compile {self.compile!r}; choose one of {known}, or null")
        _ = self.optimization

    @property
    def optimization(self) -> Optimization:
        return Optimization(
            learning_rate=self.learning_rate,
            warmup_fraction=self.warmup_fraction,
            weight_decay=self.weight_decay,
            beta2=self.beta2,
        )

    def trainer(self, **options: Any) -> L.Trainer:
        """Lightning's Trainer for it.

        Raises:
            ValueError: Lightning refuses accelerator, devices or precision.
        """
        try:
            return L.Trainer(
                max_epochs=self.max_epochs,
                accelerator=self.accelerator,
                devices=self.devices,
                precision=self.precision,  # type: ignore[arg-type]
                gradient_clip_val=self.gradient_clip,
                enable_model_summary=False,
                **options,
            )
        except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"Lightning refuses trainer accelerator={self.accelerator}, devices={self.devices}, "
                f"precision={self.precision}: {error}"
            ) from error


class NonFiniteLossError(RuntimeError):
    """Training met a loss that is not a number or infinite."""


@final
class StopOnNonFiniteLoss(Callback):
    """Ends a training whose loss is no finite number, looking every `every` steps."""

    def __init__(self, every: int = 10) -> None:
        self._every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss: Tensor = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if trainer.global_step % self._every == 0 and not torch.isfinite(loss):
            raise _non_finite("training", loss.item(), trainer.global_step)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, loss in trainer.callback_metrics.items():
            if name.endswith("valid_loss") and not torch.isfinite(loss):
                raise _non_finite("validation", loss.item(), trainer.global_step)


def _non_finite(kind: str, loss: float, step: int) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"{kind} loss is {loss} at step {step}: lower the learning_rate or gradient_clip of trainer, or of base if "
        "this is the base's training"
    )


@contextmanager
def _layers_for_training(module: TrainedModule, spec: TrainerSpec) -> Iterator[None]:
    """Checkpointing and compilation of the decoder layers, for as long as they are trained."""
    if not isinstance(module, ExitModule):
        yield
        return
    layers: Any = module.backbone.model.get_decoder().layers
    for layer in layers:
        # As Hugging Face's own switch does, whose name changes between its versions.
        layer.gradient_checkpointing = spec.gradient_checkpointing
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        if spec.compile:
            layer.compile(backend=spec.compile, dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False
            layer._compiled_call_impl = None


def train(
    module: TrainedModule,
    data: TextData,
    spec: TrainerSpec,
    *,
    seed: int,
    folder: Path,
    logger: "Logger | None",
    checkpoint_every: float = 60.0,
) -> dict[str, float]:
    """Train in place; go on from the folder's checkpoint, with the same losses, if an earlier run left one.

    Args:
        checkpoint_every: seconds, as `Checkpoints` takes them.

    Returns:
        The last logged metrics.

    Raises:
        NonFiniteLossError: the loss left the finite numbers.
    """
    L.seed_everything(seed, verbose=False)
    steps = -(-len(data.train_pairs) // spec.batch_size)
    trainer = spec.trainer(
        logger=logger or False,
        log_every_n_steps=max(1, min(20, steps)),
        callbacks=[
            StopOnNonFiniteLoss(),
            RichProgressBar(leave=False),
            Checkpoints(folder, checkpoint_every),
        ],
    )
    try:
        with _layers_for_training(module, spec):
            trainer.fit(module, datamodule=data, ckpt_path=latest(folder), weights_only=True)
    except SystemExit:
        # Lightning turns Ctrl-C into an exit.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if module.parts > 1:
        save_json(folder / BATCH_PART, 1 / module.parts)
    module.eval()
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
