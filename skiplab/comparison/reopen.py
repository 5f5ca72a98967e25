"""Reopen a comparison's run folder from another job."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from skiplab.comparison.config import Plain
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import Session
from skiplab.reporting.screen import Screen
from skiplab.utils.files import load_json
from skiplab.utils.old_names import with_present_names
from skiplab.utils.run_folder import RunFolder

_SECTIONS = ("trainer", "benchmark", "calibration", "base")


def reopen(cfg: DictConfig, *, own: Collection[str] = (), on_cpu: bool = False) -> Session:
    """A session on the folder `run`, with that run's configuration and name; nothing is tracked.

    Args:
        cfg: supplies keys that the run folder does not store, such as the cache.
        own: keys of `cfg` that belong only to the job, in addition to `run`.
        on_cpu: uses the CPU whatever the run used, for jobs that need no weights; the keys of weights depend on the
            accelerator.

    Raises:
        ConfigurationError: the folder is not a run folder.
    """
    folder = Path(os.fspath(cfg.run or ""))
    stored = load_json(folder / "config.json")
    if not cfg.run or stored is None:
        raise ConfigurationError(f"run must be the folder of a comparison, with its config.json, got {cfg.run!r}")
    known = load_json(folder / "results.json") or {}
    merged = _merged(cfg, with_present_names(stored), {"run", *own})
    merged["tracking"] = {"uri": None, "experiment": known.get("experiment", folder.name)}
    if on_cpu:
        merged["trainer"]["accelerator"] = "cpu"
    return Session(prepare(OmegaConf.create(merged)), RunFolder(folder), screen=Screen(Console()))


def _merged(cfg: DictConfig, stored: Any, own: Collection[str]) -> Plain:
    present: Any = OmegaConf.to_container(cfg, resolve=True)
    left_open = {key: value for key, value in present.items() if key not in stored and key not in own}
    # Keys that an earlier version of skiplab did not have.
    newer = {key: {**present[key], **stored[key]} for key in _SECTIONS if key in present and key in stored}
    return {**left_open, **stored, **newer}
