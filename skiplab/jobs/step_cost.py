"""Cost of a training step of each method relative to the full model's: same weights, same batches, interleaved."""

import itertools
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from skiplab.benchmarking.training_steps import expected_cost, interleaved_steps, step_figures
from skiplab.comparison.cases import Case
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.engine.batch import Batch
from skiplab.methods.base import ExitModule, Setup
from skiplab.reporting.results import write_results
from skiplab.reporting.screen import Screen
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.environment import environment
from skiplab.utils.run_folder import RunFolder


def step_cost(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Time forward, backward and optimizer step of every setting, in the trainer's precision; print and write the rows.

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
    lengths = [target for _, target in prepared.data.selection_pairs.lengths]

    def module(case: Case) -> ExitModule:
        torch.manual_seed(0)
        backbone = prepared.new_backbone().to(prepared.device)
        teacher = prepared.new_backbone().to(prepared.device).eval()
        return case.candidates[0].build(Setup(backbone, lengths, prepared.trainer.optimization, teacher)).train()

    modules = [module(case) for case in prepared.cases]
    parts = itertools.islice(itertools.cycle(prepared.data.train_dataloader()), rounds + 1)
    batches = [part.batch for part in parts]
    shown = Screen(Console()).counting("batches")(batches)
    moved = (Batch(*(tensor.to(prepared.device) for tensor in batch)) for batch in shown)
    times = interleaved_steps(modules, moved, prepared.trainer)
    rows = [
        {
            **vars(case.entry),
            **step_figures(taken[1:], times[0][1:]),
            "batch_size": prepared.trainer.batch_size,
            **expected_cost(trained, batches[1:]),
        }
        for case, trained, taken in zip(prepared.cases, modules, times, strict=True)
    ]
    config = prepared.config
    described, name = environment(config.seeds), config.tracking.experiment
    write_results(run_dir, job="step_cost", experiment=name, environment=described, rows=rows)
    for row in rows:
        low, high = row["train_step_ratio_quartiles"]
        label = f"{row['method']} {row['setting']}"
        Console().print(
            f"{label:24} {row['train_step_ms']:8.1f} ms  {row['train_step_ratio']:.3f} [{low:.3f}, {high:.3f}] of full"
            + (f", products {row['train_flops_ratio']:.3f}" if "train_flops_ratio" in row else ""),
            highlight=False,
        )
    return True
