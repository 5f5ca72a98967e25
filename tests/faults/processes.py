"""Children that die of a real SIGKILL, forked from one warm process."""

import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

KILLED = -signal.SIGKILL


def in_child(work: Callable[[], object], output: Path | None = None) -> int:
    """Run `work` in a forked process; its exit code, or less than 0 the signal that ended it.

    Args:
        output: a file that what it prints is appended to.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Lightning, MLflow and torch have idle threads by now, which the child does without.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        child = os.fork()
    if child == 0:
        _work_and_exit(work, output)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _work_and_exit(work: Callable[[], object], output: Path | None) -> NoReturn:
    code = 1
    # Garbage of the parent's may wait for threads that the child does not have.
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
    """The function, which kills its process before, or after, its call of this number from 1."""
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
