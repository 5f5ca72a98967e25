"""Write results, plots and report of a comparison's run folder again; nothing is trained, decoded or timed."""

import os
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from skiplab.comparison.comparison import Comparison
from skiplab.comparison.config_base import ConfigurationError
from skiplab.comparison.reopen import reopen
from skiplab.reporting.html import html
from skiplab.reporting.side_by_side import FinishedRun, side_by_side
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.files import load_json, write_text


def report(cfg: DictConfig, run_dir: Path, ranks: Ranks = ALONE) -> bool:
    """Report the finished settings in the folder `run`; the comparison may be unfinished, and from another machine.

    With `runs` instead, a list of folders, write one page that lays them side by side to the job's own folder.

    Raises:
        ConfigurationError: a folder is not a run folder, or both or too few are given.
    """
    if not cfg.runs:
        Comparison(reopen(cfg, own=["runs"], on_cpu=True)).report()
        return True
    if cfg.run or len(cfg.runs) < 2:
        raise ConfigurationError(
            f"report takes run=DIR, or runs=[DIR,DIR] with two folders or more, got run={cfg.run} and "
            f"runs={list(cfg.runs)}"
        )
    runs = [_finished(name, folder) for name, folder in zip(ascii_uppercase, cfg.runs, strict=False)]
    path = run_dir / "report.html"
    write_text(path, html(side_by_side(runs)))
    Console().print(f"report: {path}", soft_wrap=True, highlight=False, markup=False)
    return True


def _finished(name: str, folder: Any) -> FinishedRun:
    content = load_json(Path(os.fspath(folder)) / "results.json")
    if not content or not content.get("summary"):
        raise ConfigurationError(
            f"runs must be folders of finished comparisons, whose results.json has a summary, got {folder!r}; "
            "experiment=report run=DIR writes the results of an unfinished one"
        )
    return FinishedRun(
        name, str(folder), content["experiment"], content["rows"], content["summary"], content["environment"]
    )
