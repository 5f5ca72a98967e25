"""Child processes that a real SIGKILL ends, forked from one process in which everything is imported."""

import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, final

KILLED = -signal.SIGKILL


@final
class Child:
    """A forked process that does some work.

    Args:
        output: a file to which its output is appended.
    """

    def __init__(self, work: Callable[[], object], output: Path | None = None) -> None:
        self._code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Lightning, MLflow and torch have started idle threads, which the child does not need.
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _work_and_exit(work, output)

    def poll(self) -> int | None:
        """Its exit code, -N for signal N; None while it runs."""
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        """Wait until it has ended; its exit code, -N for signal N."""
        code = self._waited(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _waited(self, options: int) -> int | None:
        if self._code is None:
            ended, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code


def in_child(work: Callable[[], object], output: Path | None = None) -> int:
    """Run `work` in a forked process; returns its exit code, -N for signal N.

    Args:
        output: a file to which its output is appended.
    """
    return Child(work, output).wait()


def _work_and_exit(work: Callable[[], object], output: Path | None) -> NoReturn:
    code = 1
    # Collecting the parent's garbage could wait for threads that the child does not have.
    gc.freeze()
    try:
        if output is not None:
            target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(target, 1)
            os.dup2(target, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1, closefd=False), os.fdopen(2, "w", 1, closefd=False)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a child must not return into the test runner
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kills_at(count: int, function: Callable, *, after: bool = False) -> Callable:
    """A wrapper of a function that kills its process before, or after, call number `count`, counted from 1."""
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count and not after:
            kill_self()
        result = function(*args, **kwargs)
        if calls == count:
            kill_self()
        return result

    return counted


def at_file(pattern: str, *, after: bool = False) -> Callable[[], None]:
    """A fault that kills the process before, or after, a new file or folder is renamed to its final name."""

    def fault() -> None:
        for name in ("replace", "rename"):
            setattr(Path, name, dying(getattr(Path, name)))

    def dying(function: Callable) -> Callable:
        def moved(self: Path, target: Path) -> Path:
            meant = Path(target).match(pattern)
            if meant and not after:
                kill_self()
            found = function(self, target)
            if meant:
                kill_self()
            return found

        return moved

    return fault
