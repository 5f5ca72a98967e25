"""The abstract LightningModules: how a method trains, and the policy that it decodes with."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch, Part
from skiplab.engine.out_of_memory import free, loss_in_parts, out_of_memory
from skiplab.engine.policy import ExitPolicy
from skiplab.methods.recipes import qualified_name, statement_counts, training_code
from skiplab.utils.files import fingerprint


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW with linear warm-up and linear decay to zero.

    Args:
        learning_rate: peak learning rate.
        warmup_fraction: share of all steps over which the rate rises.
    """

    learning_rate: float
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"trainer learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"trainer warmup_fraction must lie in [0, 1), got {self.warmup_fraction}")
        if not self.weight_decay >= 0:
            raise ValueError(f"trainer weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"trainer beta2 must lie in [0, 1), got {self.beta2}")

    def scale(self, step: int, steps: int) -> float:
        """The learning rate at optimizer step `step` of `steps`, relative to its peak."""
        warmup = max(1, round(self.warmup_fraction * steps))
        return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))


@dataclass(frozen=True)
class Setup:
    """The inputs that all methods of a comparison share.

    Attributes:
        backbone: the backbone that the method trains, and with which it decodes.
        lengths: generated tokens per output of the full model, end-of-sequence included.
        teacher: the full model, for methods that learn from its outputs; it is not trained.
        decode_dtype: number format of models that run in a training without being trained (the teacher, or a model
            whose probes are trained); None is that of the weights.
    """

    backbone: Backbone
    lengths: Sequence[int]
    optimization: Optimization
    teacher: Backbone | None = None
    decode_dtype: str | None = None


class TrainedModule(L.LightningModule, ABC):
    """Weights, and the loss with which they are trained.

    Args:
        prefix: prefix of the names of its training curves.

    Attributes:
        trains: whether there is a training; False leaves the weights as they are.
        parts: number of parts in which a training batch goes through the model; doubled on out of memory.
    """

    trains: bool = True

    def __init__(self, optimization: Optimization, *, prefix: str = "") -> None:
        super().__init__()
        self.optimization = optimization
        self.parts = 1
        self._rows = 0
        self._prefix = prefix
        self._step_losses: list[Tensor] = []
        self._valid_losses: list[Tensor] = []

    def shared_recipe(self) -> Mapping[str, Any] | None:
        """Plain values on which the training depends, to declare that settings or classes share one training.

        By default nothing is shared. An override holds only for the loss that is defined next to it: in a subclass
        that overrides the loss and not this method, it is ignored.
        """
        return None

    @final
    @property
    def recipe(self) -> dict[str, Any] | None:
        """The plain values on which the trained weights depend, besides base model, data, trainer and seed.

        These are the class, all its hyperparameters and its setup, or the values of `shared_recipe`. Modules with equal
        recipes share one training. None means that there is no training.
        """
        if not self.trains:
            return None
        if (shared := self._shared_recipe) is not None:
            return dict(shared)
        return {"class": qualified_name(type(self)), **self.hparams, **self._made_for}

    @final
    @property
    def code(self) -> dict[str, str]:
        """Hashes of the code outside skiplab that the weights depend on, by module."""
        return training_code(type(self), shared=self._shared_recipe is not None)

    @property
    def _shared_recipe(self) -> Mapping[str, Any] | None:
        return self.shared_recipe() if statement_counts(type(self)) else None

    @property
    def _made_for(self) -> dict[str, Any]:
        """Values besides the hyperparameters on which a training without `shared_recipe` may depend."""
        return {}

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The training loss of a batch, a scalar."""

    @property
    @abstractmethod
    def backbones(self) -> Sequence[Backbone]:
        """The models that the loss runs, whose layers count as the training's cost."""

    def training_step(self, part: Part, batch_idx: int) -> Tensor:
        loss = part.weight * loss_in_parts(self.loss, part.batch, self.parts)
        self._step_losses.append(loss.detach())
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the loss of the step's whole batch, the mean over its parts."""
        loss = torch.stack(self._step_losses).mean()
        self._step_losses.clear()
        self.log(f"{self._prefix}train_loss", loss, sync_dist=True)

    def validation_step(self, part: Part, batch_idx: int) -> None:
        rows = part.weight * len(part.batch.input_BT)
        loss = self.loss(part.batch).float()
        self._valid_losses.append(torch.stack([rows * loss, loss.new_tensor(rows)]))

    def on_validation_epoch_end(self) -> None:
        """Log the mean over batches, weighted by their rows."""
        summed = torch.stack(self._valid_losses).sum(0)
        self._valid_losses.clear()
        loss, rows = self.trainer.strategy.reduce(summed, reduce_op="sum")
        self.log(f"{self._prefix}valid_loss", loss / rows, sync_dist=True)

    def configure_model(self) -> None:
        """Shard the weights over the ranks, if the trainer's strategy does so (FSDP2)."""
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            # Layers are gathered one after the other; all other weights stay gathered for the whole step.
            for layer in [layer for stack in self.modules() if isinstance(stack, nn.ModuleList) for layer in stack]:
                fully_shard(layer, mesh=mesh)
            fully_shard(self, mesh=mesh)
            for step in ("training_step", "validation_step"):
                register_fsdp_forward_method(self, step)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        # The closure is forward and backward pass, and sets gradients to zero between the two.
        optimizer.step(closure=lambda: self._in_memory(optimizer_closure))

    def _in_memory(self, closure: Callable[[], Any]) -> Any:
        """The closure's result; on out of memory, retried with twice as many parts from then on."""
        while True:
            try:
                return closure()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or not self._can_part():
                    raise
            free()
            self._step_losses.clear()
            self.parts *= 2
            warnings.warn(
                f"out of memory in training step {self.global_step}; from now on each batch is processed in "
                f"{self.parts} parts, which gives the same result but takes longer",
                stacklevel=2,
            )

    def _can_part(self) -> bool:
        # With accumulated gradients, or with other processes in the step, it cannot be repeated.
        alone = self.trainer.world_size == 1 and self.trainer.accumulate_grad_batches == 1
        return alone and self.parts < self._rows

    def on_train_batch_start(self, batch: Part, batch_idx: int) -> None:
        self._rows = len(batch.batch.input_BT)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["parts"] = self.parts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.parts = checkpoint["parts"]

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the norm of all gradients. Lightning's clipping refuses fused optimizers even if nothing is scaled."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        options = self.optimization
        # Of float16 the fused optimizer would take gradients that are clipped before they are unscaled.
        scaled = self.trainer.precision == "16-mixed"
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=options.learning_rate,
            betas=(0.9, options.beta2),
            weight_decay=options.weight_decay,
            fused=not scaled,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: options.scale(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ExitModule(TrainedModule, ABC):
    """One setting of one method. A subclass passes `setup` on and takes its own hyperparameters as keywords.

    Args:
        probes: small modules that are trained after this one, on its frozen weights.
    """

    def __init__(self, setup: Setup, *, probes: Sequence[TrainedModule] = ()) -> None:
        super().__init__(setup.optimization)
        self.save_hyperparameters(ignore=["setup", "probes"])
        self.backbone = setup.backbone
        self.lengths = setup.lengths
        self._decode_dtype = setup.decode_dtype
        # In tuples, so that their weights are not this module's.
        self.probes = tuple(probes)
        self._teacher = (setup.teacher,)

    @property
    def backbones(self) -> Sequence[Backbone]:
        return [self.backbone, *([] if self.teacher is None else [self.teacher])]

    @property
    def _made_for(self) -> dict[str, Any]:
        frozen = {} if self._decode_dtype is None else {"decode_dtype": self._decode_dtype}
        return {"output_lengths": fingerprint(lengths=list(self.lengths)), **frozen}

    @property
    def teacher(self) -> Backbone | None:
        """The full model, not trained."""
        return self._teacher[0]

    @property
    @abstractmethod
    def setting(self) -> str:
        """Name of this setting, such as `3x`."""

    @property
    @abstractmethod
    def target_speedup(self) -> float | None:
        """The target layer speedup of the setting; None if it has none."""

    def check_untrained(self) -> None:
        """Refuse to decode with the weights of the base where only trained ones make sense.

        Raises:
            ValueError: the module is such a one.
        """
        if self.probes:
            raise ValueError(f"{self.setting} has a part of its own that must be trained; passes=0 trains nothing")

    @abstractmethod
    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        """The policy to decode with, after training.

        Args:
            valid: validation batches, for policies that measure something on them.
        """


class PlannedModule(ExitModule, ABC):
    """Decodes by plans that follow from its hyperparameters and the outputs' lengths. A subclass sets `policy`."""

    policy: ExitPolicy

    @final
    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        return self.policy.fitted(valid)
