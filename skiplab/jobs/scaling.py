"""Training speed of several processes relative to a single one, which is timed while the others wait."""

from dataclasses import replace
from pathlib import Path

import lightning as L
from omegaconf import DictConfig
from rich.console import Console

from skiplab.benchmarking.training_steps import scaling_figures, trainer_step_seconds
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.methods.base import Setup
from skiplab.reporting.results import write_results
from skiplab.reporting.screen import Screen
from skiplab.training.trainer import TrainerSpec
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.environment import environment
from skiplab.utils.run_folder import RunFolder


def scaling(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Train the full model from random weights, interleaving one process, DDP and FSDP2; write the rows.

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

    def seconds(spec: TrainerSpec) -> float:
        L.seed_everything(0, verbose=False)
        module = prepared.cases[0].candidates[0].build(Setup(prepared.new_backbone(), [], spec.optimization))
        return trainer_step_seconds(module, prepared.data, spec, prepared.config.section("steps_per_round"))

    config, several = prepared.config, f"{prepared.trainer.processes} processes"
    alone = replace(prepared.trainer, devices=1, num_nodes=1, strategy="auto")
    spread = {f"{name}, {several}": replace(prepared.trainer, strategy=name) for name in ("ddp", "fsdp")}
    times: dict[str, list[float]] = {name: [] for name in ("1 process", *spread)}
    console = Console(quiet=not ranks.is_first)
    for _ in Screen(console).counting("rounds")(range(config.benchmark.rounds)):
        times["1 process"].append(ranks.on_first(lambda: seconds(alone)))
        for name, spec in spread.items():
            times[name].append(seconds(spec))
    parameters = prepared.probe().backbone.model.num_parameters()
    shared = {"batch_size": prepared.trainer.batch_size, "parameters": parameters}
    entry, one = vars(prepared.cases[0].entry), times["1 process"]
    rows = [{**entry, "setting": name, **scaling_figures(own, one), **shared} for name, own in times.items()]
    described = environment(config.seeds, processes=ranks.processes)
    name = config.tracking.experiment
    ranks.on_first(lambda: write_results(run_dir, job="scaling", experiment=name, environment=described, rows=rows))
    for row in rows:
        low, high = row["train_speedup_quartiles"]
        figures = f"{row['train_step_ms']:8.1f} ms  {row['train_speedup']:.2f}x [{low:.2f}, {high:.2f}]"
        console.print(f"{row['setting']:20} {figures}", highlight=False)
    return True
