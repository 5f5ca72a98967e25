"""State shared by the parts of a job."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from rich.console import Console

from skiplab.comparison.config import RunConfig
from skiplab.comparison.config_base import ConfigurationError
from skiplab.comparison.growth import AXES, conflicts, is_known
from skiplab.comparison.prepare import Prepared
from skiplab.reporting.mlflow_tracker import MLflowTracker
from skiplab.reporting.screen import Screen
from skiplab.reporting.tracker import NoTracker, Tracker
from skiplab.training.trainer import PARALLELISM_KEYS
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.environment import git_revision
from skiplab.utils.files import make_writable
from skiplab.utils.run_folder import RunFolder
from skiplab.utils.run_log import FILE

# Parts of the configuration that may change when a run is resumed.
MAY_CHANGE = (
    "workers",
    "tracking",
    "cache_dir",
    "save_models",
    "checkpoint_every",
    *(f"trainer.{name}" for name in PARALLELISM_KEYS),
)


@final
@dataclass(frozen=True)
class Session:
    """A checked configuration, and where its results go.

    Attributes:
        folder: the run folder, bound to the configuration.
        parent: the tracker's run of the whole job, if another process has it open.
    """

    prepared: Prepared
    folder: RunFolder
    tracker: Tracker = field(default_factory=NoTracker)
    ranks: Ranks = ALONE
    screen: Screen = field(default_factory=Screen)
    parent: str | None = None

    @contextmanager
    def run(self, key: str, name: str, *, nested: bool = True) -> Iterator[str]:
        """Open the tracker's run for a piece of work; the run of an earlier attempt is continued.

        Args:
            key: of the piece of work in the run folder.
            name: of the tracker's run.
        """
        known = self.run_ids.get(key)
        with self.tracker.run(name, run_id=known, nested=nested, parent=self.parent, tags=git_revision()) as run_id:
            # Saved before a barrier can fail.
            self.folder.update("mlflow", {key: run_id} if run_id else {})
            yield run_id

    @property
    def name(self) -> str:
        """The name of the tracker's run of the whole job: the run folder's, which tells it from others like it."""
        return self.folder.path.resolve().name

    @property
    def run_ids(self) -> dict[str, str]:
        """The tracker's runs by piece of work."""
        return self.folder.load("mlflow") or {}


def open_session(
    prepared: Prepared,
    run_dir: Path,
    *,
    ranks: Ranks = ALONE,
    free: Sequence[str] = (),
    shared: bool = False,
    grows: bool = False,
    meanwhile: Callable[[Session], object] = lambda session: None,
) -> Session:
    """Bind the run folder to the configuration, and connect to the tracking store.

    The number and use of devices may change when a run is resumed.

    Args:
        free: further parts of the configuration that may change, nested keys with dots.
        shared: whether several processes may work in the folder at once; otherwise the second waits for the first.
        grows: whether the configuration may add or omit rows, as long as no finished row changes.
        meanwhile: given the session, called once if this process has to wait for another one.

    Raises:
        ConfigurationError: the folder holds results of another configuration, or the store cannot be used.
    """
    may_change = (*MAY_CHANGE, *free)
    comparable = _comparable(prepared.config, may_change)
    folder = RunFolder(run_dir, ranks)

    def check() -> None:
        axes = AXES if grows and is_known(folder, prepared.cases) else ()
        _check_folder(folder, comparable, prepared, (*may_change, *axes))

    try:
        check()
        ranks.on_first(lambda: make_writable(Path(prepared.config.cache_dir).expanduser()))
        tracker = open_tracker(prepared.config, ranks)
        screen = Screen(Console(), run_dir / FILE) if ranks.is_first else Screen()
        session = Session(prepared, folder, tracker, ranks, screen)
        folder.bind(comparable, shared=shared, check=check, meanwhile=lambda: meanwhile(session))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return session


def same_configuration(folder: RunFolder, prepared: Prepared) -> bool:
    """Whether a folder is bound to a configuration, apart from parts that may change."""
    try:
        folder.check(_comparable(prepared.config, MAY_CHANGE), free=MAY_CHANGE)
    except ValueError:
        return False
    return True


def _comparable(config: RunConfig, may_change: Sequence[str]) -> dict[str, Any]:
    """The parts of a configuration that must stay the same when a run is resumed."""
    comparable = json.loads(json.dumps(config.plain))
    for key in may_change:
        *path, last = key.split(".")
        node = comparable
        for name in path:
            node = node[name]
        node.pop(last, None)
    if config.generation.is_default:
        # So that folders from before this section existed can be resumed.
        comparable.pop("generation", None)
    return comparable


def _check_folder(folder: RunFolder, config: Mapping[str, Any], prepared: Prepared, free: Sequence[str]) -> None:
    folder.check(config, free=free)
    if changed := conflicts(folder, prepared.cases, prepared.trainer.max_epochs):
        raise ValueError(
            f"{folder.path} holds finished rows that this configuration would change: {', '.join(changed)}; set the "
            "earlier values, such as methods.calm.passes=NUMBER, or choose another folder with hydra.run.dir=DIR, "
            "which repeats no training"
        )


def open_tracker(config: RunConfig, ranks: Ranks = ALONE) -> Tracker:
    """The configuration's tracker on the first rank; a tracker that does nothing on the others, or without a store.

    Raises:
        ValueError: the store cannot be used.
    """
    store = config.tracking
    opened: list[Tracker] = []
    if (uri := store.uri) is not None:
        ranks.on_first(lambda: opened.append(MLflowTracker.open(uri, store.experiment)))
    return opened[0] if opened else NoTracker()
