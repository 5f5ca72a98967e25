"""What larger shapes would gain on a machine, by the cost model that a throughput run fitted on it."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from skiplab import tracking
from skiplab.backbones.shapes import OPTSpec
from skiplab.cost import Footprint, bytes_speedup, steps_of
from skiplab.cost_model import CostModel, Evidence
from skiplab.environment import environment
from skiplab.files import load_json
from skiplab.formats import FORMATS
from skiplab.jobs.prepare import ConfigurationError, configuring
from skiplab.results import Row, write_results
from skiplab.run_folder import RunFolder
from skiplab.schedule import solve_schedule
from skiplab.tables import prediction_table

_VOCABULARY, _POSITIONS = 50272, 2048


def capacity(cfg: DictConfig, run_dir: Path) -> bool:
    """Predict full depth and SkipDecode at every shape, batch size and speedup; print and write the rows.

    Raises:
        ConfigurationError: there is no fitted model to predict from, or a shape or speedup cannot be.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    options = config["capacity"]
    runs = options["run"]
    folders = [Path(folder) for folder in ([runs] if isinstance(runs, str) else runs)]
    with configuring():
        source, model, error = _predictor(folders, options["dtype"])
        rows = [row for name in options["shapes"] for row in _shape_rows(name, config, model)]
        RunFolder(run_dir).bind(config)
        tracking.connect(config["tracking"]["uri"], config["tracking"]["experiment"])
    described = {**environment(0), "predicted_from": {**source, "median_error": error, "constants": asdict(model)}}
    name = config["tracking"]["experiment"]
    write_results(run_dir, job="capacity", experiment=name, environment=described, rows=rows)
    with tracking.run(name):
        for file in ("results.json", "results.csv"):
            tracking.log_file(run_dir / file)
    console = Console()
    prediction_table(rows).print(console)
    machine = source["gpu"] or f"{source['cpu']}, {source['threads']} thread(s)"
    console.print(
        f"predictions for {machine}, {options['dtype']}; the model's median error on measured settings that it was "
        f"not fitted to is {error:.1%}",
        soft_wrap=True,
        highlight=False,
    )
    return True


def _predictor(folders: Sequence[Path], dtype: str) -> tuple[dict[str, Any], CostModel, float]:
    """The machine that was measured, the model, and its error; of several runs, a model fitted to all their settings.

    Raises:
        ConfigurationError: a run has no fitted model, or they are of several machines.
    """
    found = [_read(folder, dtype) for folder in folders]
    sources = [source for source, _ in found]
    machines = {(source["cpu"], source["gpu"], source["threads"]) for source in sources}
    if len(machines) != 1:
        raise ConfigurationError(
            f"capacity predicts for one machine; {', '.join(map(str, folders))} were measured on {len(machines)}: "
            f"{'; '.join(sorted(map(str, machines)))}"
        )
    first, *others = (model for _, model in found)
    if not others:
        return sources[0], CostModel(**first["constants"]), first["median_error"]
    evidence = reduce(Evidence.with_other, map(Evidence.of, others), Evidence.of(first))
    return sources[0], evidence.model, evidence.median_error


def _read(folder: Path, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    models, measured = load_json(folder / "cost_model.json"), load_json(folder / "results.json")
    if not models or measured is None or dtype not in models:
        others = f", but for {', '.join(models)} (capacity.dtype=)" if models and measured else ""
        raise ConfigurationError(
            f"capacity predicts from a finished throughput run: {folder} holds no cost model for {dtype}{others}; run "
            "experiment=throughput and give its folder as capacity.run=DIR"
        )
    source = {key: measured["environment"].get(key) for key in ("cpu", "gpu", "threads", "git_revision")}
    return source, models[dtype]


def _shape_rows(name: str, config: dict[str, Any], model: CostModel) -> list[Row]:
    options = config["capacity"]
    spec = OPTSpec(**options["shapes"][name], max_positions=_POSITIONS, vocab_size=_VOCABULARY)
    number_format = FORMATS[options["dtype"]]
    with torch.device("meta"):
        backbone = spec.build(vocab_size=1, pad_id=1, bos_id=0, eos_id=2).to(number_format.states)
    size = Footprint.of(backbone, number_format.weight_bytes)
    count, layers = options["new_tokens"] - 1, spec.num_layers
    plans = {"1x": [layers] * count}
    for speedup in config["speedups"]:
        schedule = solve_schedule(speedup, num_layers=layers, lengths=[options["new_tokens"]])
        plans[f"{speedup:g}x"] = [schedule.depth(step) for step in range(1, count + 1)]
    rows: list[Row] = []
    for batch_size in options["batch_sizes"]:
        full = model.seconds(steps_of(plans["1x"], rows=batch_size, prompt=options["prompt_tokens"]), size)
        for setting, depths in plans.items():
            steps = steps_of(depths, rows=batch_size, prompt=options["prompt_tokens"])
            seconds = model.seconds(steps, size)
            rows.append(
                {
                    "backbone": name,
                    "method": "full" if setting == "1x" else "skipdecode",
                    "setting": setting,
                    "seed": 0,
                    "batch_size": batch_size,
                    "dtype": options["dtype"],
                    "mean_depth": sum(depths) / count,
                    "layer_speedup": layers * count / sum(depths),
                    "bytes_speedup": bytes_speedup(steps, size),
                    "predicted_ms_per_step": 1e3 * seconds / count,
                    "predicted_tokens_per_s": batch_size * count / seconds,
                    "predicted_speedup": full / seconds,
                }
            )
    return rows
