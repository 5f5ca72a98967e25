"""Training steps per second of several processes beside one, which trains alone while the others wait."""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from skiplab.benchmarking.timing import quartiles
from skiplab.comparison.prepare import ConfigurationError, Prepared, prepare
from skiplab.methods.base import Setup
from skiplab.reporting.results import Row, write_results
from skiplab.training.trainer import TrainerSpec
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.environment import environment
from skiplab.utils.run_folder import RunFolder

# Steps of a round that are not timed.
_WARMUP = 2


def scaling(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Train the full model from random weights in turns by one process, by DDP and by FSDP2; write the rows.

    Raises:
        ConfigurationError: before anything is timed.
    """
    prepared = ranks.first_before_others(lambda: prepare(cfg, allow_distributed=True))
    if prepared.trainer.processes < 2:
        raise ConfigurationError("experiment=scaling compares several processes with one; take trainer=ddp")
    folder = RunFolder(run_dir, ranks)
    try:
        folder.bind(prepared.config.plain)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    count, rounds = prepared.trainer.processes, prepared.config.benchmark.rounds
    alone = replace(prepared.trainer, devices=1, num_nodes=1, strategy="auto")
    spread = {f"{name}, {count} processes": replace(prepared.trainer, strategy=name) for name in ("ddp", "fsdp")}
    times: dict[str, list[float]] = {name: [] for name in ("1 process", *spread)}
    console = Console(quiet=not ranks.is_first)
    for _ in track(range(rounds), console=console, transient=True):
        times["1 process"].append(ranks.on_first(lambda: _step_seconds(prepared, alone)))
        for name, spec in spread.items():
            times[name].append(_step_seconds(prepared, spec))
    rows = [_row(prepared, name, taken, times["1 process"]) for name, taken in times.items()]
    ranks.on_first(lambda: _write(prepared, run_dir, rows, ranks.processes))
    for row in rows:
        low, high = row["train_speedup_quartiles"]
        figures = f"{row['train_step_ms']:8.1f} ms  {row['train_speedup']:.2f}x [{low:.2f}, {high:.2f}]"
        console.print(f"{row['setting']:20} {figures}", highlight=False)
    return True


@final
class _Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def _step_seconds(prepared: Prepared, spec: TrainerSpec) -> float:
    """Mean over a round's steps but the first ones."""
    L.seed_everything(0, verbose=False)
    module = prepared.cases[0].candidates[0].build(Setup(prepared.new_backbone(), [], spec.optimization))
    clock = _Clock()
    steps = prepared.config.section("steps_per_round")
    # As many epochs as it takes.
    trainer = replace(spec, max_epochs=steps).trainer(
        max_steps=steps, limit_val_batches=0, callbacks=[clock],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=prepared.data)
    prepared.data.trainer = None
    timed = clock.ends[_WARMUP * spec.accumulate - 1 :]
    return (timed[-1] - timed[0]) / (steps - _WARMUP)


def _row(prepared: Prepared, name: str, taken: list[float], alone: list[float]) -> Row:
    ratios = [one / own for own, one in zip(taken, alone, strict=True)]
    return {
        **vars(prepared.cases[0].entry),
        "setting": name,
        "train_step_ms": 1e3 * statistics.median(taken),
        "train_speedup": statistics.median(ratios),
        "train_speedup_quartiles": quartiles(ratios),
        "timing_rounds": len(taken),
        "batch_size": prepared.trainer.batch_size,
        "parameters": prepared.probe().backbone.model.num_parameters(),
    }


def _write(prepared: Prepared, run_dir: Path, rows: list[Row], processes: int) -> None:
    write_results(
        run_dir,
        job="scaling",
        experiment=prepared.config.tracking.experiment,
        environment=environment(prepared.config.seeds, processes=processes),
        rows=rows,
    )
