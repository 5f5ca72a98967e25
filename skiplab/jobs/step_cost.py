"""What a training step of each method costs, beside one of the full model: same weights, same batches, in turns."""

import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from torch import nn

from skiplab.benchmarking.roofline import Footprint
from skiplab.benchmarking.timing import quartiles
from skiplab.comparison.prepare import ConfigurationError, Prepared, prepare
from skiplab.engine.batch import IGNORE, Batch
from skiplab.engine.parallel_forward import prefix_columns
from skiplab.methods.base import ExitModule, Setup
from skiplab.methods.full import Full
from skiplab.methods.scheduled import PlanTrainedModule
from skiplab.reporting.results import Row, write_results
from skiplab.schedules.exit_schedule import layer_steps
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.environment import environment
from skiplab.utils.run_folder import RunFolder


def step_cost(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Time forward, backward and optimizer step of every setting from random weights; print and write the rows.

    Raises:
        ConfigurationError: before anything is timed.
    """
    prepared = prepare(cfg)
    folder = RunFolder(run_dir, ranks)
    try:
        folder.bind(prepared.config.plain)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    rounds = prepared.config.benchmark.rounds
    modules = [_module(prepared, number) for number in range(len(prepared.cases))]
    optimizers = [torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True) for module in modules]
    parts = itertools.islice(itertools.cycle(prepared.data.train_dataloader()), rounds + 1)
    batches = [part.batch for part in parts]
    times: list[list[float]] = [[] for _ in modules]
    for batch in track(batches, console=Console(), transient=True):
        moved = Batch(*(tensor.to(prepared.device) for tensor in batch))
        for module, optimizer, taken in zip(modules, optimizers, times, strict=True):
            taken.append(_timed_step(module, optimizer, moved))
    rows = [
        _row(prepared, number, taken[1:], times[0][1:]) | _expected(module, batches[1:])
        for number, (module, taken) in enumerate(zip(modules, times, strict=True))
    ]
    write_results(
        run_dir,
        job="step_cost",
        experiment=prepared.config.tracking.experiment,
        environment=environment(prepared.config.seeds),
        rows=rows,
    )
    for row in rows:
        low, high = row["train_step_ratio_quartiles"]
        label = f"{row['method']} {row['setting']}"
        Console().print(
            f"{label:24} {row['train_step_ms']:8.1f} ms  {row['train_step_ratio']:.3f} [{low:.3f}, {high:.3f}] of full"
            + (f", products {row['train_flops_ratio']:.3f}" if "train_flops_ratio" in row else ""),
            highlight=False,
        )
    return True


def _module(prepared: Prepared, number: int) -> ExitModule:
    torch.manual_seed(0)
    backbone = prepared.new_backbone().to(prepared.device)
    lengths = [target for _, target in prepared.data.valid_pairs.lengths]
    teacher = prepared.new_backbone().to(prepared.device).eval()
    setup = Setup(backbone, lengths, prepared.trainer.optimization, teacher)
    return prepared.cases[number].candidates[0].build(setup).train()


def _timed_step(module: ExitModule, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    _synchronise(batch)
    start = time.perf_counter()
    module.loss(batch).backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    _synchronise(batch)
    return time.perf_counter() - start


def _synchronise(batch: Batch) -> None:
    if batch.input_BT.is_cuda:
        torch.cuda.synchronize(batch.input_BT.device)


def _expected(module: ExitModule, batches: Sequence[Batch]) -> Row:
    """What the plans' columns and products say a step costs against the full model's; nothing of other trainings."""
    if not isinstance(module, PlanTrainedModule | Full):
        return {}
    backbone, policy = module.backbone, module.exit_policy([])
    size = Footprint.of(backbone)
    ran = whole = head = 0
    for batch in batches:
        steps_L = layer_steps(policy.plan, backbone.num_layers, batch.decode_steps)
        ran += len(batch.input_BT) * sum(prefix_columns(batch.prompt_columns, steps) for steps in steps_L)
        whole += backbone.num_layers * batch.input_BT.numel()
        head += int((batch.target_BG != IGNORE).sum()) * size.head_weights
    flops_ratio = (ran * size.layer_weights + head) / (whole * size.layer_weights + head)
    return {"train_layer_ratio": ran / whole, "train_flops_ratio": flops_ratio}


def _row(prepared: Prepared, number: int, taken: list[float], full: list[float]) -> Row:
    ratios = [own / base for own, base in zip(taken, full, strict=True)]
    return {
        **vars(prepared.cases[number].entry),
        "train_step_ms": 1e3 * statistics.median(taken),
        "train_step_ratio": sum(taken) / sum(full),
        "train_step_ratio_quartiles": quartiles(ratios),
        "timing_rounds": len(taken),
        "batch_size": prepared.trainer.batch_size,
    }
