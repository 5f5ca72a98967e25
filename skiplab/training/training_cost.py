"""The cost of a training: passes, tokens, layer-tokens and time."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Self, final

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.hooks import RemovableHandle

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Part
from skiplab.training.best_pass import BestPass, validation_loss
from skiplab.utils.files import load_json, save_json

_FILE = "training_cost.json"


@final
@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """The cost of one training, without validation.

    Attributes:
        passes: over the training split.
        tokens: of prompts and targets, without padding.
        layer_tokens: positions on which decoder layers ran, summed over layers and forward passes; padding and a
            teacher's layers are included.
        cpu_s: CPU seconds of all processes; None on a GPU.
        gpu_s: seconds times the number of GPUs; None on a CPU.
        valid_loss: validation value of the training loss, with the weights that were kept.
        kept_pass: the pass whose weights were kept, if `keep` is `best`.
    """

    passes: int
    tokens: int
    layer_tokens: int
    cpu_s: float | None = None
    gpu_s: float | None = None
    valid_loss: float | None = None
    kept_pass: int | None = None

    @classmethod
    def stored(cls, folder: Path) -> Self | None:
        """The cost stored with weights; None if there is none."""
        known = load_json(folder / _FILE)
        return None if known is None else cls(**known)

    def row(self, probes: Iterable[Self] = ()) -> dict[str, Any]:
        """The figures of a result row, including the cost of probes trained on the same weights."""
        all_parts = [self, *probes]
        summed = {
            f"train_{name}": sum(found)
            for name in ("tokens", "layer_tokens", "cpu_s", "gpu_s")
            if (found := [getattr(part, name) for part in all_parts if getattr(part, name) is not None])
        }
        known = {"train_passes": self.passes, "kept_pass": self.kept_pass, **summed, "valid_loss": self.valid_loss}
        return {name: value for name, value in known.items() if value is not None}


@final
class CostMeter(Callback):
    """Counts the cost of a training over all runs that it took, and writes it beside the checkpoints at the end.

    Work after the last checkpoint of an interrupted run, which is done again, counts once. With several processes a
    checkpoint holds the counts of the first one, from which all of them resume.

    Args:
        backbones: all that run in the training, including a teacher.
        best: keeps the weights of the best pass; None if those of the last pass are kept.
    """

    def __init__(self, folder: Path, backbones: Iterable[Backbone], best: BestPass | None = None) -> None:
        self._folder = folder
        self._best = best
        self._layers: list[nn.Module] = [layer for backbone in backbones for layer in backbone.layers]
        self._hooks: list[RemovableHandle] = []
        self._on_gpu = False
        self._since: float | None = None
        self._seconds, self._layer_tokens = 0.0, 0
        # Counts since the last checkpoint stay on the device and are read only there, so that no step synchronises.
        self._tokens, self._counted = 0, torch.tensor(0)

    def state_dict(self) -> dict[str, Any]:
        self._read_clock()
        return self._sums()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds, self._layer_tokens, self._tokens = (
            state_dict[name] for name in ("seconds", "layer_tokens", "tokens")
        )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._on_gpu = pl_module.device.type == "cuda"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A training that resumes within an epoch gets no `on_train_epoch_start` for it.
        self._start()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._start()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Part, batch_idx: int
    ) -> None:
        if batch.weight:
            prompt_mask_BP, target_BG = batch.batch.prompt_mask_BP, batch.batch.target_BG
            self._counted = self._counted.to(target_BG.device) + prompt_mask_BP.sum() + (target_BG != IGNORE).sum()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()
        sums = self._sums()
        # On the module's device, because NCCL cannot reduce CPU tensors.
        own = torch.tensor(list(sums.values()), dtype=torch.float64, device=pl_module.device)
        summed = dict(zip(sums, trainer.strategy.reduce(own, reduce_op="sum").tolist(), strict=True))
        loss = validation_loss(trainer) if self._best is None else self._best.loss
        cost = TrainingCost(
            passes=trainer.current_epoch,
            tokens=round(summed["tokens"]),
            layer_tokens=round(summed["layer_tokens"]),
            valid_loss=loss if isfinite(loss) else None,
            kept_pass=None if self._best is None else self._best.number,
            **{"gpu_s" if self._on_gpu else "cpu_s": summed["seconds"]},
        )
        if trainer.is_global_zero:
            save_json(self._folder / _FILE, asdict(cost))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._stop()

    def _start(self) -> None:
        if self._since is None:
            self._since = self._now()
            # Otherwise a compiled layer would treat the count as a constant.
            count: Any = torch.compiler.disable(self._count)
            self._hooks = [layer.register_forward_pre_hook(count) for layer in self._layers]

    def _stop(self) -> None:
        self._read_clock()
        self._since = None
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _read_clock(self) -> None:
        if self._since is not None:
            now = self._now()
            self._seconds += now - self._since
            self._since = now

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
            return perf_counter()
        return process_time()

    def _sums(self) -> dict[str, Any]:
        self._tokens += int(self._counted)
        self._counted = torch.tensor(0)
        return {"seconds": self._seconds, "layer_tokens": self._layer_tokens, "tokens": self._tokens}

    def _count(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        # Do not count the second forward pass of checkpointed layers, which happens in the backward pass.
        if torch._C._current_graph_task_id() == -1:
            self._layer_tokens += args[0].shape[0] * args[0].shape[1]
