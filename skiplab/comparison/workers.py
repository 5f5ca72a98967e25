"""Worker processes that share a comparison's run folder; each makes the settings that it claims."""

import multiprocessing
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from skiplab.comparison.claims import Claims
from skiplab.comparison.comparison import Comparison
from skiplab.comparison.prepare import prepare
from skiplab.comparison.session import Session, open_tracker
from skiplab.reporting.screen import Screen
from skiplab.utils.quiet import quiet
from skiplab.utils.run_folder import RunFolder


@contextmanager
def helped_by(session: Session, parent: str, *, workers: int) -> Iterator[Claims | None]:
    """Start worker processes that make a comparison's settings alongside this one; settings and trainings are claimed.

    They exit after the last setting or, if this process ends earlier, after their current setting. Their output is in
    `worker-N.log` of the run folder.

    Args:
        session: the comparison's; workers open their own from its configuration and run folder.
        parent: the tracker's run of the comparison.
        workers: number of processes, including this one; 1 starts none, and claims nothing.
    """
    if workers == 1:
        yield None
        return
    config, folder = session.prepared.config.plain, session.folder.path
    run = uuid.uuid4().hex
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work, args=(config, os.fspath(folder), run, parent, os.getpid(), number), daemon=True)
        for number in range(1, workers)
    ]
    for process in processes:
        process.start()
    try:
        yield Claims(folder / "claims", run)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()


def _work(config: dict[str, Any], folder: str, run: str, parent: str, owner: int, number: int) -> None:
    """The main function of a worker: makes settings until none are left; it gets only plain values."""
    log = os.open(Path(folder) / f"worker-{number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    quiet(threads=config["threads"])
    prepared = prepare(OmegaConf.create(config))
    tracker = open_tracker(prepared.config)
    session = Session(prepared, RunFolder(Path(folder)), tracker, screen=Screen(Console(width=120)), parent=parent)
    Comparison(session).work(Claims(Path(folder) / "claims", run), go_on=lambda: os.getppid() == owner)
