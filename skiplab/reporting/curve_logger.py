"""Training curves: to a file beside the weights, and to a tracker."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import time
from typing import Any, final

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from skiplab.reporting.tracker import Point, Tracker

FILE = "curves.jsonl"


@final
class Curves(Logger):
    """Writes each point to a file, and to a tracker's run if there is one.

    Args:
        folder: the checkpoints' folder, whose JSON files are kept with the weights.
    """

    def __init__(self, folder: Path, tracker: Tracker, run_id: str | None) -> None:
        super().__init__()
        self._tracker = tracker
        self._file = folder / FILE
        self._run_id = run_id

    @property
    def name(self) -> str | None:
        return None

    @property
    def version(self) -> str | None:
        return None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        points = [(name, float(value), int(time() * 1000), step or 0) for name, value in metrics.items()]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as file:
            file.write("".join(f"{json.dumps(point)}\n" for point in points))
        if self._run_id:
            self._tracker.log_points(self._run_id, points)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the job logs the parameters of a setting."""


def points(folder: Path) -> list[Point]:
    """The curves stored with weights; a repeated step counts once. Empty if there is no file."""
    found = {(name, step): (name, value, when, step) for name, value, when, step in _lines(folder / FILE)}
    return list(found.values())


def _lines(path: Path) -> Iterator[Point]:
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            # A line that a kill cut short; its step was repeated.
            continue
