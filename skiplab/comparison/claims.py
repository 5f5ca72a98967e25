"""Which settings a process works on, of several that share a comparison's run folder."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from skiplab.utils.files import load_json, save_json


@final
class Claims:
    """What the processes of one run are at: a lock file per piece of work, which the system frees with its process.

    Args:
        folder: shared by the processes.
        run: name of the run; a setting that failed in it is not tried again by its other processes.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self._run = run
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def attempt(self, names: Sequence[str]) -> Iterator[bool]:
        """Whether this process has all of the pieces of work for the block, since no other one has any of them."""
        with ExitStack() as held:
            try:
                for name in names:
                    held.enter_context(FileLock(self._folder / f"{name}.lock", timeout=0))
            except Timeout:
                held.close()
                yield False
            else:
                yield True

    def fail(self, name: str, why: str) -> None:
        """Note that a setting failed."""
        save_json(self._folder / f"{name}.failed.json", {"run": self._run, "why": why})

    def failed(self, name: str) -> str | None:
        """Why a setting failed in this run; None if it did not."""
        known = load_json(self._folder / f"{name}.failed.json")
        return known["why"] if known and known["run"] == self._run else None
