"""Train a module with Lightning's Trainer; an interrupted training resumes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final, get_args

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from skiplab.data.module import TextData
from skiplab.engine.training_attention import float32_attention
from skiplab.methods.base import ExitModule, Optimization, TrainedModule
from skiplab.training.best_pass import BestPass
from skiplab.training.checkpoints import Checkpoints, latest
from skiplab.training.training_cost import CostMeter
from skiplab.training.upkeep import NO_UPKEEP, StepProgress, Upkeep
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.files import save_json
from skiplab.utils.suggestions import suggestion

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

StrategyName = Literal["auto", "ddp", "fsdp"]
# Keys that distribute a training; they change its results only by rounding.
PARALLELISM_KEYS = ("devices", "num_nodes", "strategy", "accumulate")


# A file beside the weights if a batch did not fit into memory: the fraction of it that was processed at a time.
BATCH_PART = "batch_part.json"


@dataclass(frozen=True, kw_only=True)
class TrainerSpec:
    """One training's length, optimizer and devices.

    Args:
        max_epochs: passes over the training split; 0 trains nothing.
        batch_size: examples per optimizer step, over all devices.
        accumulate: number of parts in which a device processes its share of a batch.
        gradient_clip: largest gradient norm.
        precision, accelerator, num_nodes: as in `lightning.Trainer`.
        devices: processes on each node.
        strategy: how several processes share the work. ddp: each holds the whole model; fsdp: each holds a shard of
            weights, gradients and optimizer states (FSDP2); auto: ddp if there are several processes.
        gradient_checkpointing: whether the backward pass recomputes the layers' activations instead of storing them.
        keep: which weights a training keeps: those of the last pass, or those of the best pass, which has the lowest
            validation loss.
        compile: backend of `torch.compile`, such as inductor, applied to each decoder layer; None compiles nothing.
        base_outputs: number of the base's outputs per prompt that take the place of the references, in trainings of
            methods (sequence-level distillation, arXiv 1606.07947; of drafters, arXiv 2310.08461); None takes the
            references.
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
    num_nodes: int = 1
    strategy: StrategyName = "auto"
    accumulate: int = 1
    gradient_checkpointing: bool = False
    keep: Literal["last", "best"] = "last"
    compile: str | None = None
    base_outputs: int | None = None

    def __post_init__(self) -> None:
        if self.max_epochs < 0 or self.batch_size < 1:
            raise ValueError(
                "trainer max_epochs must be at least 0 (which trains nothing) and batch_size at least 1, got "
                f"{self.max_epochs} and {self.batch_size}"
            )
        if min(self.devices, self.num_nodes, self.accumulate) < 1:
            raise ValueError(
                f"trainer devices, num_nodes and accumulate must be at least 1, got {self.devices}, {self.num_nodes} "
                f"and {self.accumulate}"
            )
        if self.batch_size < self.processes * self.accumulate:
            raise ValueError(
                f"trainer batch_size={self.batch_size} examples cannot be divided among {self.processes} processes in "
                f"{self.accumulate} parts each; batch_size counts the examples of an optimizer step over all of them"
            )
        if self.base_outputs is not None and self.base_outputs < 1:
            raise ValueError(
                f"trainer base_outputs must be at least 1, or null to train on the references, got {self.base_outputs}"
            )
        if not self.gradient_clip >= 0:
            raise ValueError(f"trainer gradient_clip must be at least 0 (0 disables it), got {self.gradient_clip}")
        if self.strategy not in get_args(StrategyName):
            meant = suggestion(self.strategy, get_args(StrategyName))
            raise ValueError(f"unknown trainer strategy {self.strategy!r}{meant}")
        if self.keep not in ("last", "best"):
            raise ValueError(f"trainer keep must be last or best, got {self.keep!r}")
        if self.keep == "best" and self.strategy == "fsdp":
            raise ValueError(
                "trainer keep=best needs whole weights in a process, and strategy=fsdp shards them; take ddp"
            )
        if self.compile is not None and self.compile not in torch.compiler.list_backends(exclude_tags=()):
            meant = suggestion(self.compile, torch.compiler.list_backends())
            raise ValueError(f"unknown trainer compile {self.compile!r}, and not null{meant}")
        _ = self.optimization

    @property
    def processes(self) -> int:
        """Number of processes on all nodes."""
        return self.devices * self.num_nodes

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that the trained weights depend on, as plain values."""
        recipe = {name: value for name, value in vars(self).items() if name not in PARALLELISM_KEYS}
        # So that weights of versions without these keys are found.
        later = {"keep": "last", "base_outputs": None}
        return {name: value for name, value in recipe.items() if name not in later or value != later[name]}

    @property
    def optimization(self) -> Optimization:
        return Optimization(
            learning_rate=self.learning_rate,
            warmup_fraction=self.warmup_fraction,
            weight_decay=self.weight_decay,
            beta2=self.beta2,
        )

    def trainer(self, **options: Any) -> L.Trainer:
        """Lightning's Trainer with these settings.

        Raises:
            ValueError: Lightning refuses accelerator, devices, strategy or precision.
        """
        try:
            return L.Trainer(
                max_epochs=self.max_epochs,
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy=self._strategy(),
                accumulate_grad_batches=self.accumulate,
                # The data module shards the data itself.
                use_distributed_sampler=False,
                precision=self.precision,  # type: ignore[arg-type]
                gradient_clip_val=self.gradient_clip,
                enable_model_summary=False,
                **options,
            )
        except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"Lightning refuses trainer accelerator={self.accelerator}, devices={self.devices}, "
                f"num_nodes={self.num_nodes}, strategy={self.strategy}, precision={self.precision}: {error}"
            ) from error

    def _strategy(self) -> Strategy | str:
        if self.processes == 1:
            return "auto"
        backend = "gloo" if self.accelerator == "cpu" else "nccl"
        if self.strategy == "fsdp":
            return ModelParallelStrategy(
                data_parallel_size=self.processes,
                tensor_parallel_size=1,
                # One file, from which any number of ranks can resume.
                save_distributed_checkpoint=False,
                process_group_backend=backend,
            )
        # Some layers may get no gradient, because the plan never runs them.
        return DDPStrategy(process_group_backend=backend, find_unused_parameters=True, gradient_as_bucket_view=True)


class NonFiniteLossError(RuntimeError):
    """The training loss is NaN or infinite."""


@final
class StopOnNonFiniteLoss(Callback):
    """Ends a training whose loss is not finite; checks every `every` steps."""

    def __init__(self, every: int = 10) -> None:
        self._every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss: Tensor = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if trainer.global_step % self._every == 0:
            # All ranks check the same value, so that all of them stop.
            loss = trainer.strategy.reduce(loss.detach().clone(), reduce_op="sum")
            if not torch.isfinite(loss):
                raise _non_finite("training", loss.item(), trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, loss in trainer.callback_metrics.items():
            if name.endswith("valid_loss") and not torch.isfinite(loss):
                raise _non_finite("validation", loss.item(), trainer.global_step)


def _non_finite(kind: str, loss: float, step: int) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"{kind} loss is {loss} at step {step}: lower the learning_rate or gradient_clip of trainer, or of base if "
        "this is the base's training"
    )


@contextmanager
def layers_for_training(module: TrainedModule, spec: TrainerSpec) -> Iterator[None]:
    """Sets gradient checkpointing, compilation and attention of the decoder layers for the time of the training."""
    if not isinstance(module, ExitModule):
        yield
        return
    layers: Any = module.backbone.layers
    for layer in layers:
        # What transformers' own switch does; the switch's name differs between versions.
        layer.gradient_checkpointing = spec.gradient_checkpointing
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        # Keys and values that are given to a layer in training are only read.
        layer._can_checkpoint_with_cache = True
        if spec.compile:
            layer.compile(backend=spec.compile, dynamic=True)
    attention = float32_attention if spec.accelerator == "cpu" and spec.precision.endswith("mixed") else nullcontext
    try:
        with attention(module.backbone.model):
            yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer._can_checkpoint_with_cache = False
            layer._compiled_call_impl = None


def train(
    module: TrainedModule,
    data: TextData,
    spec: TrainerSpec,
    *,
    seed: int,
    folder: Path,
    logger: "Logger | None",
    upkeep: Upkeep = NO_UPKEEP,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Train in place; resume from the folder's checkpoint, with the same losses, if an earlier run left one.

    Returns:
        The last logged metrics.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    L.seed_everything(seed, verbose=False)
    if ranks.world_size == 1:
        spec = replace(spec, devices=1, num_nodes=1)
    steps = -(-len(data.train_pairs) // spec.batch_size)
    trainer = spec.trainer(
        logger=logger or False,
        log_every_n_steps=max(1, min(20, steps)),
        enable_progress_bar=False,
        callbacks=_callbacks(module, spec, folder, upkeep),
    )
    start = ranks.on_first(partial(latest, folder))
    try:
        with layers_for_training(module, spec):
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    except SystemExit:
        # Lightning turns Ctrl-C into an exit.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        # The data module outlives the training, and must not keep the weights alive.
        data.trainer = None
    if module.parts > 1:
        save_json(folder / BATCH_PART, 1 / module.parts)
    module.eval()
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _callbacks(module: TrainedModule, spec: TrainerSpec, folder: Path, upkeep: Upkeep) -> list[Callback]:
    best = BestPass(folder) if spec.keep == "best" else None
    return [
        StopOnNonFiniteLoss(),
        StepProgress(upkeep.progress),
        *([best] if best else []),
        CostMeter(folder, module.backbones, best),
        Checkpoints(folder, upkeep.checkpoint_every),
    ]
