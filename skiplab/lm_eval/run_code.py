"""Whether a generated program passes its tests: run in a process of its own, with limits and without network.

The Python process that the code runs in is limited, not sealed: files of the user can be read.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

_CHILD = Path(__file__).with_name("guarded_child.py")
# For the process to start and to end.
_GRACE_SECONDS = 20.0


def passes(program: str, *, seconds: float = 3.0, memory_bytes: int = 4 * 2**30) -> bool:
    """Whether a program runs through without an exception.

    Args:
        seconds: wall-clock limit of the program; its processor time has the same limit, rounded up.
        memory_bytes: of its address space.

    Raises:
        RuntimeError: this system cannot cut a process off from the network, or the process could not be started.
    """
    # Known only to the child, before the program runs, so that a program cannot print its own verdict.
    passed = secrets.token_hex()
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD), str(seconds), str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"TMPDIR": folder},
            start_new_session=True,
        )
        try:
            out, errors = child.communicate(f"{passed}\n{program}".encode(), timeout=seconds + _GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(child)
    if child.returncode == 3:
        raise RuntimeError(f"generated code is not run: {errors.decode(errors='replace').strip()}")
    return out.decode(errors="replace").endswith(passed)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
