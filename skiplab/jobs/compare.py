"""Compare methods on one shared base: train, decode and score each, then time all of them interleaved."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.comparison.comparison import Comparison
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import open_session
from skiplab.comparison.workers import helped_by, join
from skiplab.utils.distributed import ALONE, Ranks


def compare(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Run the comparison into a folder; True if every setting has its figures.

    Raises:
        ConfigurationError: before anything is trained or written.
    """
    prepared = ranks.first_before_others(lambda: prepare(cfg, allow_distributed=True))
    if prepared.trainer.processes != ranks.processes:
        raise ConfigurationError(
            f"trainer.devices and trainer.num_nodes ask for {prepared.trainer.processes} processes, and "
            f"{ranks.processes} run; start it with python -m skiplab.run"
        )
    session = open_session(prepared, run_dir, ranks=ranks, grows=True, meanwhile=join)
    return Comparison(session, helpers=helped_by).run()
