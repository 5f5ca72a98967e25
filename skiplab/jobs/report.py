"""Write results, plots and report of a comparison's run folder anew; nothing is trained, decoded or timed."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.comparison.comparison import Comparison
from skiplab.comparison.reopen import reopen
from skiplab.utils.distributed import ALONE, Ranks


def report(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Report what is finished in the folder `run`, which may be a part of the comparison, on whichever machine.

    Raises:
        ConfigurationError: the folder is no run's.
    """
    Comparison(reopen(cfg, on_cpu=True)).report()
    return True
