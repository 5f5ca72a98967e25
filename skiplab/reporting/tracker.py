"""The interface of trackers, to which a job logs its runs, and a tracker that does nothing."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from datasets import Dataset

Point = tuple[str, float, int, int]
"""A point of a curve: name, value, milliseconds since 1970, step."""


class Tracker(ABC):
    """Logs runs to a store. Without a `run_id`, methods write to the active run."""

    @property
    @abstractmethod
    def lost(self) -> str | None:
        """Why tracking has stopped; None while the store is reachable."""

    @abstractmethod
    def run(
        self,
        name: str,
        *,
        run_id: str | None = None,
        nested: bool = False,
        parent: str | None = None,
        tags: Mapping[str, Any] = {},
    ) -> AbstractContextManager[str]:
        """Open a run and make it the active one; yields its id, empty if nothing is tracked.

        The run ends FINISHED, KILLED when interrupted, FAILED when anything raises.

        Args:
            run_id: a run to resume, if the store has it.
            nested: make it a child of the active run.
            parent: a run that another process has open; makes it a child of that one instead.
        """

    @abstractmethod
    def complete(self, run_id: str | None) -> bool:
        """Whether a run is complete: it finished, was not deleted, and belongs to the active run's experiment."""

    @abstractmethod
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write parameters; those that the run already has are kept."""

    @abstractmethod
    def log_figures(self, row: Mapping[str, Any], *, group: str = "", run_id: str | None = None) -> None:
        """Write the numbers of a result row as metrics; a pair, such as an interval, as two in the group `spread`.

        Args:
            group: prefix of the names, such as `batch32/`.
        """

    @abstractmethod
    def log_series(self, name: str, values: Sequence[float], *, first_step: int = 0, run_id: str | None = None) -> None:
        """Write a metric by generation step."""

    @abstractmethod
    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Write points of curves to a run."""

    @abstractmethod
    def log_dataset(self, split: "Dataset", name: str, context: str) -> None:
        """Log a split as an input data set."""

    @abstractmethod
    def log_table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None:
        """Write a table as an artifact."""

    @abstractmethod
    def log_text(self, text: str, path: str) -> None:
        """Write a text as an artifact."""

    @abstractmethod
    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Write a file as an artifact."""

    @abstractmethod
    def set_note(self, markdown: str) -> None:
        """Set the description on the run's page."""

    @abstractmethod
    def register_method(self, folder: Path, name: str, *, tags: Mapping[str, Any] = {}) -> None:
        """Write a folder of `save_method` as a model, and as a new version of a registered model.

        Args:
            tags: tags of the version.
        """

    @abstractmethod
    def new_run(self, name: str, parent: str, tags: Mapping[str, Any] = {}) -> str:
        """Create a child of a run without making it active; returns its id, empty if nothing is tracked."""

    @abstractmethod
    def finish_run(
        self,
        run_id: str,
        status: str,
        *,
        params: Mapping[str, Any] = {},
        figures: Mapping[str, float] = {},
        note: str = "",
    ) -> None:
        """Write parameters, figures and note of a run made by `new_run` in one request, and end it.

        Args:
            status: `FINISHED`, `FAILED` or `KILLED`.
        """

    @abstractmethod
    def end_lost_run(self, run_id: str) -> None:
        """End a run whose process died, if the store has it."""


@final
class NoTracker(Tracker):
    """Does nothing: for jobs without a store, and for all ranks except the first."""

    @property
    def lost(self) -> str | None:
        return None

    @contextmanager
    def run(
        self,
        name: str,
        *,
        run_id: str | None = None,
        nested: bool = False,
        parent: str | None = None,
        tags: Mapping[str, Any] = {},
    ) -> Iterator[str]:
        yield ""

    def complete(self, run_id: str | None) -> bool:
        return True

    def log_params(self, params: Mapping[str, Any]) -> None:
        pass

    def log_figures(self, row: Mapping[str, Any], *, group: str = "", run_id: str | None = None) -> None:
        pass

    def log_series(self, name: str, values: Sequence[float], *, first_step: int = 0, run_id: str | None = None) -> None:
        pass

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        pass

    def log_dataset(self, split: "Dataset", name: str, context: str) -> None:
        pass

    def log_table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None:
        pass

    def log_text(self, text: str, path: str) -> None:
        pass

    def log_file(self, path: Path, folder: str | None = None) -> None:
        pass

    def set_note(self, markdown: str) -> None:
        pass

    def register_method(self, folder: Path, name: str, *, tags: Mapping[str, Any] = {}) -> None:
        pass

    def new_run(self, name: str, parent: str, tags: Mapping[str, Any] = {}) -> str:
        return ""

    def finish_run(
        self,
        run_id: str,
        status: str,
        *,
        params: Mapping[str, Any] = {},
        figures: Mapping[str, float] = {},
        note: str = "",
    ) -> None:
        pass

    def end_lost_run(self, run_id: str) -> None:
        pass
