"""Profile a decode step at a given model shape: the time of each kind of work, on the reference and the fast path."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from skiplab.benchmarking.random_backbone import seeded
from skiplab.benchmarking.step_profile import PATHS, path_profile
from skiplab.comparison.config import load
from skiplab.comparison.prepare import configuring
from skiplab.comparison.session import open_tracker
from skiplab.comparison.throughput_entrants import Subject
from skiplab.engine.number_format import FORMATS
from skiplab.reporting.screen import Screen
from skiplab.reporting.tables import profile_table
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
    for dtype in Screen(console).counting("number formats")(subject.spec.dtypes):
        backbone = seeded(subject.shape, subject.device).to(subject.device, FORMATS[dtype].states)
        for batch_size in subject.spec.batch_sizes:
            workload = subject.workload(batch_size)
            for path in PATHS:
                parts = path_profile(backbone, path, FORMATS[dtype], workload)
                found.append({"dtype": dtype, "batch_size": batch_size, "path": path, "ms_per_step": parts})
    save_json(run_dir / "profile.json", {"environment": environment(0), "profiles": found})
    with tracker.run(config.tracking.experiment):
        tracker.log_file(run_dir / "profile.json")
    profile_table(found).print(console)
    return True
