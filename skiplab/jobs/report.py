"""Write results, plots and report of a comparison's run folder anew; nothing is trained, decoded or timed."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from skiplab.comparison.comparison import Comparison
from skiplab.comparison.config import Plain
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import Session
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.files import load_json
from skiplab.utils.old_names import with_present_names
from skiplab.utils.run_folder import RunFolder


def report(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Report what is finished in the folder `run`, which may be a part of the comparison, on whichever machine.

    Raises:
        ConfigurationError: the folder is no run's.
    """
    folder = Path(os.fspath(cfg.run or ""))
    stored = load_json(folder / "config.json")
    if not cfg.run or stored is None:
        raise ConfigurationError(f"run must be the folder of a comparison, with its config.json, got {cfg.run!r}")
    known = load_json(folder / "results.json") or {}
    name = known.get("experiment", folder.name)
    prepared = prepare(OmegaConf.create(_merged(cfg, with_present_names(stored), name)))
    Comparison(Session(prepared, RunFolder(folder), console=Console())).report()
    return True


def _merged(cfg: DictConfig, stored: Any, name: str) -> Plain:
    """The run's configuration under its name; what a folder leaves open is `cfg`'s, and nothing asks for a GPU."""
    own: Any = OmegaConf.to_container(cfg, resolve=True)
    trainer = {**own["trainer"], **stored["trainer"], "accelerator": "cpu"}
    left_open = {key: own[key] for key in own.keys() - stored.keys() if key != "run"}
    return {**left_open, **stored, "trainer": trainer, "tracking": {"uri": None, "experiment": name}}
