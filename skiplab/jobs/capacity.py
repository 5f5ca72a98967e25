"""Predict the speed of larger shapes on a machine, with a cost model that a throughput run fitted on it."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from skiplab.backbones.shapes import OPTSpec
from skiplab.benchmarking.capacity import Decoding, Predictor
from skiplab.comparison.config import load
from skiplab.comparison.config_capacity import Capacity
from skiplab.comparison.config_nodes import make
from skiplab.comparison.prepare import configuring
from skiplab.comparison.session import open_tracker
from skiplab.reporting.results import write_results
from skiplab.reporting.tables import prediction_table
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.environment import environment
from skiplab.utils.run_folder import RunFolder

_VOCABULARY, _POSITIONS = 50272, 2048


def capacity(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Predict full depth and SkipDecode at every shape, batch size and speedup; print and write the rows.

    Raises:
        ConfigurationError: there is no cost model to predict from, or a shape or speedup is impossible.
    """
    config = load(cfg)
    options: Capacity = config.section("capacity")
    with configuring():
        predictor = Predictor.read(options.folders, options.dtype)
        decoding = Decoding(
            dtype=options.dtype,
            batch_sizes=options.batch_sizes,
            prompt_tokens=options.prompt_tokens,
            new_tokens=options.new_tokens,
            speedups=config.speedups,
        )
        sizes = {"max_positions": _POSITIONS, "vocab_size": _VOCABULARY}
        specs = {
            name: make(OPTSpec, {**own, **sizes}, f"capacity.shapes.{name}") for name, own in options.shapes.items()
        }
        rows = [row for name, spec in specs.items() for row in decoding.rows(name, spec, predictor.model)]
        folder = RunFolder(run_dir)
        folder.bind(config.plain)
        tracker = open_tracker(config, ranks)
    origin = predictor.plain
    name = config.tracking.experiment
    described = {**environment(0), "predicted_from": origin}
    write_results(run_dir, job="capacity", experiment=name, environment=described, rows=rows)
    with tracker.run(name):
        for file in ("results.json", "results.csv"):
            tracker.log_file(run_dir / file)
    console = Console()
    prediction_table(rows).print(console)
    console.print(
        f"predictions for {predictor.machine}, {options.dtype}; errors of the cost model on held-out settings: "
        f"median {origin['median_error']:.1%}, largest {origin['largest_error']:.1%}",
        soft_wrap=True,
        highlight=False,
    )
    return True
