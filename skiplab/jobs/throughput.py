"""Time decoding at any model shape, with random weights and fixed lengths: skiplab, other systems, hardware bounds."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.comparison.config import load
from skiplab.comparison.prepare import configuring
from skiplab.comparison.session import open_tracker
from skiplab.comparison.throughput import Throughput
from skiplab.comparison.throughput_entrants import Subject
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.run_folder import RunFolder


def throughput(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Time all systems at every batch size; True if none failed.

    Raises:
        ConfigurationError: before anything is timed.
    """
    config = load(cfg)
    with configuring():
        folder = RunFolder(run_dir, ranks)
        folder.check(config.plain)
        job = Throughput(config, Subject.of(config), folder)
        tracker = open_tracker(config, ranks)
        folder.bind(config.plain)
    return job.run(tracker)
