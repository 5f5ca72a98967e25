"""Profile a decode step at a shape: what each kind of work takes on the reference path and on the fast one."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from skiplab.benchmarking.random_backbone import seeded
from skiplab.benchmarking.step_profile import step_profile
from skiplab.benchmarking.timing import Workload, engine_system
from skiplab.comparison.config import load
from skiplab.comparison.prepare import configuring
from skiplab.comparison.session import open_tracker
from skiplab.comparison.throughput_entrants import Subject
from skiplab.engine.backbone import Backbone
from skiplab.engine.number_format import FORMATS
from skiplab.engine.policy import FullDepth
from skiplab.reporting.tables import Cell, Table
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.environment import environment
from skiplab.utils.files import save_json
from skiplab.utils.run_folder import RunFolder


def profile(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Profile full depth in every format at every batch size, on both paths; print the table, keep `profile.json`.

    Raises:
        ConfigurationError: before anything is run.
    """
    config = load(cfg)
    with configuring():
        subject = Subject.of(config)
        folder = RunFolder(run_dir)
        folder.bind(config.plain)
        tracker = open_tracker(config, ranks)
    found: list[dict[str, Any]] = []
    console = Console()
    for dtype in track(subject.spec.dtypes, console=console, transient=True):
        backbone = seeded(subject.shape, subject.device).to(subject.device, FORMATS[dtype].states)
        for batch_size in subject.spec.batch_sizes:
            workload = subject.workload(batch_size)
            for path in ("reference", "fast"):
                parts = _profile(backbone, path, dtype, workload)
                found.append({"dtype": dtype, "batch_size": batch_size, "path": path, "ms_per_step": parts})
    save_json(run_dir / "profile.json", {"environment": environment(0), "profiles": found})
    with tracker.run(config.tracking.experiment):
        tracker.log_file(run_dir / "profile.json")
    _table(found).print(console)
    return True


def _profile(backbone: Backbone, path: str, dtype: str, workload: Workload) -> dict[str, float]:
    policy, device = FullDepth(backbone.num_layers), backbone.device
    if path == "reference":
        return step_profile(engine_system(backbone, policy), workload, device)
    fast = FORMATS[dtype].fast_path(backbone, workload.batch_size)
    unrecorded = engine_system(fast, policy, workload, record=False) if device.type == "cuda" else None
    return step_profile(engine_system(fast, policy, workload), workload, device, unrecorded=unrecorded)


def _table(found: list[dict[str, Any]]) -> Table:
    kinds = sorted({kind for one in found for kind in one["ms_per_step"]} - {"host"})
    table = Table("Milliseconds per step", ["format", "batch", "path", "step", *kinds, "host"])
    for one in found:
        parts = one["ms_per_step"]
        figures = [sum(parts.values()), *(parts.get(kind, 0.0) for kind in (*kinds, "host"))]
        labels = [Cell(one["dtype"]), Cell(str(one["batch_size"])), Cell(one["path"])]
        table.lines.append([*labels, *(Cell(f"{figure:.2f}") for figure in figures)])
    return table
