"""Time training steps, and count what they should cost."""

import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, final

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import Precision
from torch import nn

from skiplab.benchmarking.roofline import Footprint
from skiplab.benchmarking.timing import quartiles
from skiplab.engine.batch import IGNORE, Batch
from skiplab.engine.prompt_columns import batch_columns
from skiplab.methods.base import ExitModule
from skiplab.methods.full import Full
from skiplab.methods.scheduled import PlanTrainedModule
from skiplab.schedules.exit_schedule import layer_steps
from skiplab.training.trainer import TrainerSpec, layers_for_training

# The first steps of a round are not timed.
_WARMUP = 2


def interleaved_steps(modules: Sequence[ExitModule], batches: Iterable[Batch], spec: TrainerSpec) -> list[list[float]]:
    """Seconds of each module's step on each batch, in the trainer's precision, the modules taking turns."""
    times: list[list[float]] = [[] for _ in modules]
    optimizers = [torch.optim.AdamW(one.parameters(), lr=1e-4, fused=True) for one in modules]
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    precision = spec.trainer(**options).strategy.precision_plugin
    with ExitStack() as training:
        for module in modules:
            training.enter_context(layers_for_training(module, spec))
        for batch in batches:
            for module, optimizer, taken in zip(modules, optimizers, times, strict=True):
                taken.append(timed_step(module, optimizer, batch, precision))
    return times


def timed_step(module: ExitModule, optimizer: torch.optim.Optimizer, batch: Batch, precision: Precision) -> float:
    """Seconds of forward pass, backward pass, gradient clipping and optimizer step.

    Args:
        precision: the trainer's, which wraps the forward pass.
    """
    _synchronise(batch)
    start = time.perf_counter()
    with precision.forward_context():
        loss = module.loss(batch)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    _synchronise(batch)
    return time.perf_counter() - start


def _synchronise(batch: Batch) -> None:
    if batch.input_BT.is_cuda:
        torch.cuda.synchronize(batch.input_BT.device)


def step_figures(own: Sequence[float], full: Sequence[float]) -> dict[str, Any]:
    """Step time relative to the full model's, from seconds round by round."""
    return {
        "train_step_ms": 1e3 * statistics.median(own),
        "train_step_ratio": sum(own) / sum(full),
        "train_step_ratio_quartiles": quartiles([one / base for one, base in zip(own, full, strict=True)]),
        "timing_rounds": len(own),
    }


def expected_cost(module: ExitModule, batches: Sequence[Batch]) -> dict[str, float]:
    """Cost of training steps relative to full depth, in layer-columns and in products.

    Empty for a module that is not trained under plans.
    """
    if not isinstance(module, PlanTrainedModule | Full):
        return {}
    backbone, policy = module.backbone, module.exit_policy([])
    size = Footprint.of(backbone)
    ran = whole = head = 0
    for batch in batches:
        steps_L = layer_steps(policy.plan, backbone.num_layers, batch.decode_steps)
        columns_L = batch_columns(policy.prompt, steps_L, batch.prompt_mask_BP)
        ran += len(batch.input_BT) * sum(columns.count for columns in columns_L)
        whole += backbone.num_layers * batch.input_BT.numel()
        head += int((batch.target_BG != IGNORE).sum()) * size.head_weights
    flops_ratio = (ran * size.layer_weights + head) / (whole * size.layer_weights + head)
    return {"train_layer_ratio": ran / whole, "train_flops_ratio": flops_ratio}


@final
class _Clock(Callback):
    """Records the time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def trainer_step_seconds(
    module: L.LightningModule, data: L.LightningDataModule, spec: TrainerSpec, steps: int
) -> float:
    """Mean seconds per optimizer step of a Trainer over `steps` steps, without the first two."""
    clock = _Clock()
    # `max_steps` ends the training; there are at most as many epochs as steps.
    trainer = replace(spec, max_epochs=steps).trainer(
        max_steps=steps, limit_val_batches=0, callbacks=[clock],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    data.trainer = None
    timed = clock.ends[_WARMUP * spec.accumulate - 1 :]
    return (timed[-1] - timed[0]) / (steps - _WARMUP)


def scaling_figures(own: Sequence[float], alone: Sequence[float]) -> dict[str, Any]:
    """Speed relative to one process, from seconds per step round by round."""
    ratios = [one / several for several, one in zip(own, alone, strict=True)]
    return {
        "train_step_ms": 1e3 * statistics.median(own),
        "train_speedup": statistics.median(ratios),
        "train_speedup_quartiles": quartiles(ratios),
        "timing_rounds": len(own),
    }
