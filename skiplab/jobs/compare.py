"""Compare methods on one shared base: train, decode, score, then time all of them in turns."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from skiplab.comparison.comparison import Comparison, open_folder
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.utils import distributed


def compare(cfg: DictConfig, run_dir: Path) -> bool:
    """Run the comparison into a folder; True if every setting has its figures.

    Raises:
        ConfigurationError: before anything is trained or written.
    """
    prepared = distributed.first_before_others(lambda: prepare(cfg, together=True))
    if prepared.trainer.processes != distributed.processes():
        raise ConfigurationError(
            f"trainer.devices and trainer.num_nodes ask for {prepared.trainer.processes} processes, and "
            f"{distributed.processes()} run; start it by python -m skiplab.run"
        )
    return Comparison(prepared, open_folder(prepared, run_dir), Console(quiet=not distributed.is_first())).run()
