"""Write results, plots and report of a comparison's run folder again; nothing is trained, decoded or timed."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.comparison.comparison import Comparison
from skiplab.comparison.reopen import reopen
from skiplab.utils.distributed import ALONE, Ranks


def report(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Report the finished settings in the folder `run`; the comparison may be unfinished, and from another machine.

    Raises:
        ConfigurationError: the folder is not a run folder.
    """
    Comparison(reopen(cfg, on_cpu=True)).report()
    return True
