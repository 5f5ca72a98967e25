"""`python -m skiplab.run` in a forked process, which need not import what it works with."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from skiplab.run import main
from tests.faults.processes import Child
from tests.undrawn import undrawn

# What a run imports on its way, so that no child spends its time on it.
for _name in (
    "skiplab.jobs.compare",
    "mlflow.data.huggingface_dataset",
    "mlflow.store.tracking.sqlalchemy_store",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
):
    import_module(_name)


def start(home: Path, *arguments: str, fault: Callable[[], object] = lambda: None) -> Child:
    """The command with a folder as its working directory, where what it prints goes to `output.txt`; no plot is drawn.

    Args:
        fault: is called in the process before it begins.
    """

    def work() -> None:
        os.chdir(home)
        os.environ["SKIPLAB_CACHE"] = str(home / "cache")
        os.environ["COLUMNS"] = "100"
        # For the processes that it starts.
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        # It hears Ctrl-C, even where the tests themselves run in a shell's background, which ignores it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # As they are outside of pytest, which makes them errors and keeps them to itself.
        warnings.resetwarnings()
        warnings.showwarning = lambda message, *_: sys.stderr.write(f"warning: {message}\n")
        undrawn()
        fault()
        sys.argv = ["skiplab", *arguments]
        try:
            main()
        except SystemExit as end:
            if isinstance(end.code, str):
                sys.stdout.write(f"{end.code}\n")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)

    home.mkdir(parents=True, exist_ok=True)
    return Child(work, home / "output.txt")


def output(home: Path) -> str:
    return (home / "output.txt").read_text()
