"""A comparison killed with SIGKILL at many moments, and the same command run again."""

import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.figure
import mlflow
import pytest

from skiplab.benchmarking import timing
from skiplab.engine import batch_run
from skiplab.methods.base import TrainedModule
from tests.faults.comparisons import check_whole, command, results, statuses
from tests.faults.processes import KILLED, at_file, kills_at
from tests.forked_run import output


def at_call(owner: Any, name: str, count: int, *, after: bool = False) -> Callable[[], None]:
    """A fault that kills the process at call number `count` of a function."""
    return lambda: setattr(owner, name, kills_at(count, getattr(owner, name), after=after))


# In the order of a run: each run resumes from the work that was finished before, and reaches the next moment.
MOMENTS = {
    "first artifact of the run": at_call(mlflow, "log_params", 1, after=True),
    "base: third step": at_call(TrainedModule, "training_step", 3),
    "base: a checkpoint": at_file("step-3.ckpt"),
    "base: validation": at_call(TrainedModule, "validation_step", 1),
    "base: its weights after": at_file("cache/base-*", after=True),
    "decoding of lengths": at_call(batch_run.EagerRun, "advance", 7),
    "lengths before": at_file("selection-lengths.json"),
    "full: table to MLflow": at_call(mlflow, "log_dict", 1, after=True),
    "full: record before": at_file("settings/full-1x-seed-0.json"),
    "full: record after": at_file("settings/full-1x-seed-0.json", after=True),
    "results before": at_file("results.json"),
    "rows as csv": at_file("results.csv"),
    "skipdecode: last step": at_call(TrainedModule, "training_step", 4, after=True),
    "skipdecode: weights before": at_file("cache/method-*"),
    "skipdecode: end of its run": at_call(mlflow, "end_run", 1),
    "calibration: decoding": at_call(batch_run.EagerRun, "advance", 5),
    "calibration: a hypothesis": at_file("calibration/calm*.json", after=True),
    "timing: second round": at_call(timing, "_run", 4),
    "timing: after": at_file("timing.json", after=True),
    "report": at_file("report.html"),
    "a plot": at_call(matplotlib.figure.Figure, "savefig", 2),
    "artifacts to MLflow": at_call(mlflow, "log_artifact", 3),
    "end of all": at_call(mlflow, "end_run", 1),
}


def test_a_run_killed_at_every_moment_in_turn_reaches_the_same_results(undisturbed: Path, tmp_path: Path) -> None:
    for moment, fault in MOMENTS.items():
        assert command(tmp_path, fault=fault) == KILLED, f"{moment}: {output(tmp_path)[-3000:]}"
        check_whole(tmp_path)
    assert command(tmp_path) == 0, output(tmp_path)
    assert results(tmp_path) == results(undisturbed)
    assert "timing: already finished" in output(tmp_path)
    assert statuses(f"sqlite:///{tmp_path}/mlflow.db") == statuses(f"sqlite:///{undisturbed}/mlflow.db")


@pytest.mark.parametrize("moment", ["skipdecode: last step"])
def test_a_run_killed_once_reaches_the_same_results(undisturbed: Path, tmp_path: Path, moment: str) -> None:
    shutil.copytree(undisturbed / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("method-*"))
    assert command(tmp_path, fault=MOMENTS[moment]) == KILLED
    assert command(tmp_path) == 0, output(tmp_path)
    assert results(tmp_path) == results(undisturbed)


def test_a_run_killed_at_random_reaches_the_same_results(undisturbed: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    kills = 0
    for _ in range(2):
        delay = rng.uniform(0.2, 2.5)
        if command(tmp_path, fault=partial(die_in, delay)) == KILLED:
            kills += 1
        check_whole(tmp_path)
    assert command(tmp_path) == 0, output(tmp_path)
    assert kills
    assert results(tmp_path) == results(undisturbed)


def die_in(seconds: float) -> None:
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
