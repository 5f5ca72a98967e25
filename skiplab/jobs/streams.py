"""Serve streams of requests with continuous batching, in static batches, and at full depth."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.comparison.prepare import configuring, prepare
from skiplab.comparison.session import open_tracker
from skiplab.comparison.stream_systems import check
from skiplab.comparison.streams import StreamRounds
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.run_folder import RunFolder


def streams(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Measure all systems at all loads, in interleaved rounds; print and write the rows.

    Raises:
        ConfigurationError: before anything is measured.
    """
    prepared = prepare(cfg)
    with configuring():
        check(prepared.config.section("streams"), prepared)
        folder = RunFolder(run_dir, ranks)
        folder.check(prepared.config.plain)
        job = StreamRounds(prepared, folder)
        tracker = open_tracker(prepared.config, ranks)
        folder.bind(prepared.config.plain)
    return job.run(tracker)
