"""The log file of a run: what the job prints, and what libraries log and warn of."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

FILE = "run.log"
# Their records do not reach the root logger.
_APART = ("lightning.pytorch", "lightning.fabric")


def write_line(path: Path, text: str) -> None:
    """Add a text with the time; several processes may."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {text}\n")


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Add what libraries log from level INFO, and all warnings, to a file; what the console shows does not change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    loggers = [root, *(logger for name in _APART if not (logger := logging.getLogger(name)).propagate)]
    levels = [(logger, logger.level) for logger in loggers]
    others = [(one, one.level) for logger in loggers for one in logger.handlers]
    shown = warnings.showwarning

    def show(message: Any, category: Any, filename: str, lineno: int, *rest: Any, **options: Any) -> None:
        write_line(path, f"{category.__name__}: {message} ({filename}:{lineno})")
        shown(message, category, filename, lineno, *rest, **options)

    for one, level in others:
        one.setLevel(max(level, logging.WARNING))
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
        for logger, level in levels:
            logger.removeHandler(handler)
            logger.setLevel(level)
        for one, level in others:
            one.setLevel(level)
        handler.close()
