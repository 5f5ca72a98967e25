"""`python -m skiplab.run` in a forked process, which saves the time of imports."""

import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from skiplab.run import main
from tests.faults.processes import Child
from tests.undrawn import undrawn

# Modules that a run imports late, imported here so that no child spends time on them.
for _name in (
    "skiplab.jobs.compare",
    "mlflow.data.huggingface_dataset",
    "mlflow.store.tracking.sqlalchemy_store",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
):
    import_module(_name)


def start(home: Path, *arguments: str, fault: Callable[[], object] = lambda: None) -> Child:
    """Start the command in a working directory, with its output in `output.txt` there; no plots are drawn.

    Args:
        fault: called in the process before the command starts.
    """

    def work() -> None:
        os.chdir(home)
        os.environ["SKIPLAB_CACHE"] = str(home / "cache")
        os.environ["COLUMNS"] = "100"
        # For child processes of the command.
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        # So that the command receives Ctrl-C even if the tests run in the background of a shell, which ignores it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Warnings are shown, as outside pytest, which turns them into errors and captures them.
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


def as_torchrun(processes: int) -> list[dict[str, str]]:
    """The variables that torchrun sets in each process of a job on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "TORCHELASTIC_RUN_ID": "forked", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    return [common | {"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(processes)]


def output(home: Path) -> str:
    return (home / "output.txt").read_text()
