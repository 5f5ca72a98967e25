"""Locks between processes: who waits says what for, and for whom."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

_POLL_SECONDS = 0.2


@final
class Hold:
    """A lock file that one process at a time has; the operating system frees it when the process ends.

    The process that has it may acquire it again.

    Args:
        path: of the lock file. The holder's name stands in a file beside it.
        what: that it is for, in the message of a process that waits.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._lock = FileLock(path, is_singleton=True, thread_local=False)
        self._holder = path.with_name(f"{path.name}.holder")
        self._what = what

    def acquire(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until no other process has it, and say so where there is something to wait for.

        Args:
            meanwhile: called once if another process has it.
        """
        Path(self._lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            sys.stderr.write(f"waiting for {self._what}: {self._named()} is at work on it\n")
            meanwhile()
            self._lock.acquire(poll_interval=_POLL_SECONDS)
        # Read by people alone, so that it need not be whole.
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        self._holder.write_text(json.dumps(holder))

    def is_taken(self) -> bool:
        """Whether another process has it."""
        if not Path(self._lock.lock_file).exists():
            return False
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def release(self) -> None:
        """Let the next one have it."""
        if self._lock.lock_counter == 1:
            self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _named(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
        except (OSError, ValueError):
            return "another process"
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """A block that one process at a time runs.

    Args:
        path: of the lock file.
        what: that it is for, in the message of a process that waits.
    """
    hold = Hold(path, what)
    hold.acquire()
    try:
        yield
    finally:
        hold.release()
