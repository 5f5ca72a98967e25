"""What larger shapes would gain on a machine, by the cost model that a throughput run fitted on it."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from skiplab.backbones.shapes import OPTSpec
from skiplab.benchmarking.cost_model import CostModel, Evidence
from skiplab.benchmarking.roofline import Footprint, bytes_speedup, steps_of
from skiplab.comparison.config import Capacity, RunConfig, load
from skiplab.comparison.config_nodes import make
from skiplab.comparison.prepare import ConfigurationError, configuring
from skiplab.comparison.session import open_tracker
from skiplab.engine.number_format import FORMATS
from skiplab.reporting.results import Row, write_results
from skiplab.reporting.tables import prediction_table
from skiplab.schedules.schedule_solver import solve_schedule
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.environment import environment
from skiplab.utils.files import load_json
from skiplab.utils.run_folder import RunFolder

_VOCABULARY, _POSITIONS = 50272, 2048


def capacity(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Predict full depth and SkipDecode at every shape, batch size and speedup; print and write the rows.

    Raises:
        ConfigurationError: there is no fitted model to predict from, or a shape or speedup cannot be.
    """
    config = load(cfg)
    options: Capacity = config.section("capacity")
    with configuring():
        sources, model, errors = _predictor(options.folders, options.dtype)
        rows = [row for name in options.shapes for row in _shape_rows(name, config, model)]
        folder = RunFolder(run_dir)
        folder.bind(config.plain)
        tracker = open_tracker(config, ranks)
    median, largest = statistics.median(errors), max(errors)
    predicted_from = {
        "runs": sources, "constants": asdict(model), "median_error": median, "largest_error": largest,
    }  # fmt: skip
    described = {**environment(0), "predicted_from": predicted_from}
    name = config.tracking.experiment
    write_results(run_dir, job="capacity", experiment=name, environment=described, rows=rows)
    with tracker.run(name):
        for file in ("results.json", "results.csv"):
            tracker.log_file(run_dir / file)
    console = Console()
    prediction_table(rows).print(console)
    machine = sources[0]["gpu"] or f"{sources[0]['cpu']}, {sources[0]['threads']} thread(s)"
    console.print(
        f"predictions for {machine}, {options.dtype}; the model's errors on measured settings that it was not "
        f"fitted to: median {median:.1%}, largest {largest:.1%}",
        soft_wrap=True,
        highlight=False,
    )
    return True


def _predictor(folders: Sequence[Path], dtype: str) -> tuple[list[dict[str, Any]], CostModel, list[float]]:
    """What was measured where, the model, and the sizes of its errors on settings held out; of several runs, a model
    fitted to all their settings.

    Raises:
        ConfigurationError: a run has no fitted model, or they are of several machines.
    """
    found = [_read(folder, dtype) for folder in folders]
    sources = [source for source, _ in found]
    if len(machines := {(source["cpu"], source["gpu"], source["threads"]) for source in sources}) > 1:
        raise ConfigurationError(
            f"capacity predicts for one machine; {', '.join(map(str, folders))} were measured on {len(machines)}: "
            f"{'; '.join(sorted(map(str, machines)))}"
        )
    first = found[0][1]
    if len(found) == 1:
        try:
            errors = [abs(error) for error in first["held_out_errors"].values()]
            return sources, CostModel(**first["constants"]), errors
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{folders[0]}/cost_model.json is no cost model of this version of skiplab; run experiment=throughput "
                "again"
            ) from error
    for folder, (_, model) in zip(folders, found, strict=True):
        if "fitted" not in model:
            raise ConfigurationError(
                f"capacity fits a model to the settings of several runs, and {folder} kept none of its own; give it "
                "alone, or run experiment=throughput there again"
            )
    evidence = reduce(Evidence.with_other, (Evidence.of(model, source["folder"]) for source, model in found))
    return sources, evidence.model, [abs(error) for error in evidence.held_out_errors.values()]


def _read(folder: Path, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    models, measured = load_json(folder / "cost_model.json"), load_json(folder / "results.json")
    for name, found in (("cost_model", models), ("results", measured)):
        if found is not None and not isinstance(found, dict):
            raise ConfigurationError(f"{folder}/{name}.json is not what experiment=throughput writes; run it again")
    if not models or measured is None or dtype not in models:
        others = f", but for {', '.join(models)} (capacity.dtype=)" if models and measured else ""
        raise ConfigurationError(
            f"capacity predicts from a finished throughput run: {folder} holds no cost model for {dtype}{others}; run "
            "experiment=throughput and give its folder as capacity.run=DIR"
        )
    source = {key: measured["environment"].get(key) for key in ("cpu", "gpu", "threads", "git_revision")}
    return {"folder": str(folder), **source}, models[dtype]


def _shape_rows(name: str, config: RunConfig, model: CostModel) -> list[Row]:
    options: Capacity = config.section("capacity")
    sizes = {**options.shapes[name], "max_positions": _POSITIONS, "vocab_size": _VOCABULARY}
    spec = make(OPTSpec, sizes, f"capacity.shapes.{name}")
    number_format = FORMATS[options.dtype]
    with torch.device("meta"):
        backbone = spec.build(vocab_size=1, pad_id=1, bos_id=0, eos_id=2).to(number_format.states)
    size = Footprint.of(backbone, number_format.weight_bytes)
    count, layers = options.new_tokens - 1, spec.num_layers
    plans = {"1x": [layers] * count}
    for speedup in config.speedups:
        schedule = solve_schedule(speedup, num_layers=layers, lengths=[options.new_tokens])
        plans[f"{speedup:g}x"] = [schedule.depth(step) for step in range(1, count + 1)]
    rows: list[Row] = []
    for batch_size in options.batch_sizes:
        full = model.seconds(steps_of(plans["1x"], rows=batch_size, prompt=options.prompt_tokens), size)
        for setting, depths in plans.items():
            steps = steps_of(depths, rows=batch_size, prompt=options.prompt_tokens)
            seconds = model.seconds(steps, size)
            rows.append(
                {
                    "backbone": name,
                    "method": "full" if setting == "1x" else "skipdecode",
                    "setting": setting,
                    "seed": 0,
                    "batch_size": batch_size,
                    "dtype": options.dtype,
                    "mean_depth": sum(depths) / count,
                    "layer_speedup": layers * count / sum(depths),
                    "bytes_speedup": bytes_speedup(steps, size),
                    "predicted_ms_per_step": 1e3 * seconds / count,
                    "predicted_tokens_per_s": batch_size * count / seconds,
                    "predicted_speedup": full / seconds,
                }
            )
    return rows
