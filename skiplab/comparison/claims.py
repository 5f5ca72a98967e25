"""Claims of work by the processes that share a comparison's run folder."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from skiplab.utils.files import load_json, save_json

# Of a run folder.
FOLDER = "claims"
# Names the run that other processes can join.
_OPEN = "open.json"


@contextmanager
def claimed(folder: Path, names: Sequence[str]) -> Iterator[bool]:
    """Claim all pieces of work for the block; yields False if another process holds any of them."""
    with ExitStack() as held:
        try:
            for name in names:
                held.enter_context(FileLock(folder / f"{name}.lock", timeout=0))
        except Timeout:
            held.close()
            yield False
        else:
            yield True


@final
class Claims:
    """Claims of the processes of one run: a lock file per piece of work, released by the system when a process ends.

    Args:
        folder: shared by the processes.
        run: name of the run; a setting that failed in this run is not tried again by its other processes.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self._run = run
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def under_way(cls, folder: Path) -> "Claims | None":
        """The claims of the run that is open to others in a folder; None if there is none."""
        known = load_json(folder / _OPEN)
        return None if known is None else cls(folder, known["run"])

    @contextmanager
    def open_to_others(self) -> Iterator[None]:
        """A block within which processes that start in the folder can join the run."""
        save_json(self._folder / _OPEN, {"run": self._run})
        try:
            yield
        finally:
            (self._folder / _OPEN).unlink(missing_ok=True)

    def attempt(self, names: Sequence[str]) -> AbstractContextManager[bool]:
        """As `claimed`, in the run's folder."""
        return claimed(self._folder, names)

    def fail(self, name: str, why: str) -> None:
        """Record that a setting failed."""
        save_json(self._folder / f"{name}.failed.json", {"run": self._run, "why": why})

    def failed(self, name: str) -> str | None:
        """Why a setting failed in this run; None if it did not."""
        known = load_json(self._folder / f"{name}.failed.json")
        return known["why"] if known and known["run"] == self._run else None
