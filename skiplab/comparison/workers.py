"""Processes that share a comparison's run folder; each makes the settings that it claims."""

import multiprocessing
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console

from skiplab.comparison.claims import FOLDER, Claims
from skiplab.comparison.comparison import Comparison
from skiplab.comparison.prepare import prepare
from skiplab.comparison.session import Session, open_tracker, same_configuration
from skiplab.reporting.screen import Screen
from skiplab.utils.quiet import quiet
from skiplab.utils.run_folder import RunFolder

_SECONDS_TO_END = 30
_POLL_SECONDS = 0.2
# The GPUs that a process sees.
_GPUS = "CUDA_VISIBLE_DEVICES"


@contextmanager
def helped_by(session: Session, parent: str, workers: int) -> Iterator[Claims]:
    """Make a comparison's settings with other processes: some that are started, and any that join.

    The started ones exit after the last setting or, if this process ends earlier, after their current setting. Their
    output is in `worker-N.log` of the run folder. On a machine with several GPUs they take turns to get one each.

    Args:
        session: the comparison's; workers open their own from its configuration and run folder.
        parent: the tracker's run of the comparison.
        workers: number of processes, including this one.
    """
    config, folder = session.prepared.config.plain, session.folder.path
    run = uuid.uuid4().hex
    claims = Claims(folder / FOLDER, run)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_work, args=(config, os.fspath(folder), run, parent, os.getpid(), number), daemon=True)
        for number in range(1, workers)
    ]
    with claims.open_to_others():
        for number, process in enumerate(processes, start=1):
            start(process, number)
        try:
            yield claims
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(_SECONDS_TO_END)


def start(process: BaseProcess, number: int) -> None:
    """Start a worker that sees one GPU of several; which a process sees is settled before it imports torch."""
    seen, count = os.environ.get(_GPUS), torch.cuda.device_count()
    if count > 1:
        names = seen.split(",") if seen else [str(index) for index in range(count)]
        os.environ[_GPUS] = names[number % count]
    try:
        process.start()
    finally:
        if count > 1:
            os.environ.pop(_GPUS) if seen is None else os.environ.update({_GPUS: seen})


def _work(config: dict[str, Any], folder: str, run: str, parent: str, owner: int, number: int) -> None:
    """The main function of a worker: makes settings until none are left; it gets only plain values."""
    log = os.open(Path(folder) / f"worker-{number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Ctrl-C in a terminal reaches all processes; the first one then ends the others, whose tracked runs end as killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    quiet(threads=config["threads"])
    prepared = prepare(OmegaConf.create(config))
    tracker = open_tracker(prepared.config)
    session = Session(prepared, RunFolder(Path(folder)), tracker, screen=Screen(Console(width=120)), parent=parent)
    Comparison(session).work(Claims(Path(folder) / FOLDER, run), go_on=lambda: os.getppid() == owner)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def join(session: Session) -> None:
    """Help the process that has a session's run folder, until no setting is left or it has ended.

    It is left alone if its configuration differs. While it times or reports, there is nothing to help with.
    """
    folder = session.folder
    if session.ranks.processes > 1:
        return
    while (claims := Claims.under_way(folder.path / FOLDER)) is None:
        if not folder.is_taken():
            return
        sleep(_POLL_SECONDS)
    if not same_configuration(folder, session.prepared):
        return
    session.screen.print("joining it: this process makes settings of the same run")
    helper = replace(session, parent=session.run_ids.get("parent"))
    Comparison(helper).work(claims, go_on=folder.is_taken)
