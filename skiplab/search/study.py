"""Persistent Optuna studies: storages, samplers, and trials whose worker died.

A worker holds a lock file while it lives, which the operating system frees when it is killed. That tells its lost
trials on any storage; on a database, Optuna's heartbeat tells those of other machines too.
"""

import os
import socket
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, final, get_args

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine

from skiplab.utils.files import is_in_memory

SamplerName = Literal["tpe", "nsga2", "gp", "random"]
PrunerName = Literal["median", "hyperband"]
WORKER = "worker"
UNNAMED = timedelta(seconds=10)
RUN = "mlflow_run"

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(place: str, *, heartbeat: int = 30, retries: int = 3) -> BaseStorage:
    """A storage by its URL (`sqlite:///FILE`, `postgresql://...`), or a journal file by its path.

    Args:
        heartbeat: seconds between a worker's heartbeats in a database; after three times that its trial is retried.
        retries: of a trial whose worker died.

    Raises:
        ValueError: it cannot be reached.
    """
    if is_in_memory(place):
        raise ValueError(
            f"search.storage={place} is in memory, which neither workers nor a later run can read; give "
            "sqlite:///FILE or a journal file's path"
        )
    try:
        if "://" not in place:
            path = Path(place).absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(os.fspath(path)))
        if place.startswith("sqlite:///"):
            Path(place.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
        with experimental():
            storage = RDBStorage(
                place,
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=retries),
            )
        if storage.engine.dialect.name == "sqlite":
            _unhurried(storage.engine)
        return storage
    except Exception as error:
        reason = f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error).__name__
        raise ValueError(
            f"search.storage={place} cannot be used: {reason}; give sqlite:///FILE, a journal file's path, or "
            "postgresql+psycopg://USER@HOST/DATABASE with its driver installed"
        ) from error


def open_study(
    storage: BaseStorage,
    name: str,
    *,
    directions: Mapping[str, str],
    identity: Mapping[str, Any],
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> Study:
    """The study of a name, made if it is not there.

    Args:
        directions: by metric.
        identity: what all its trials share, as plain values.

    Raises:
        ValueError: the storage holds a study of that name with another identity, or other objectives.
    """
    study = optuna.create_study(
        study_name=name, storage=storage, load_if_exists=True, sampler=sampler, pruner=pruner,
        directions=list(directions.values()),  # type: ignore[arg-type]
    )  # fmt: skip
    whole = {"objectives": dict(directions), **identity}
    known = study.user_attrs.get("identity")
    if known is None:
        with experimental():
            study.set_metric_names(list(directions))
        study.set_user_attr("identity", whole)
    elif known != whole:
        differing = sorted(key for key in known.keys() | whole.keys() if known.get(key) != whole.get(key))
        raise ValueError(
            f"study {name!r} in this storage belongs to another search (it differs in {', '.join(differing)}); choose "
            "another name with search.study=NAME (drafts.study=NAME in search_draft), or another storage"
        )
    return study


def new_sampler(name: SamplerName, seed: int) -> optuna.samplers.BaseSampler:
    """An Optuna sampler by name.

    Raises:
        ValueError: the name is unknown.
    """
    with experimental():
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
    raise ValueError(f"unknown sampler {name!r}; choose one of {', '.join(get_args(SamplerName))}")


def new_pruner(name: PrunerName | None) -> optuna.pruners.BasePruner:
    """An Optuna pruner by name; None prunes nothing.

    Raises:
        ValueError: the name is unknown.
    """
    if name is None:
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner()
    raise ValueError(f"unknown pruner {name!r}; choose one of {', '.join(get_args(PrunerName))}")


@final
class Workers:
    """Which workers are alive: a lock file per worker in a folder that the workers of one machine share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def alive(self) -> Iterator[str]:
        """Yield a new worker's name; it counts as alive until the block, or the process, ends."""
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / f"{name}.lock")
        with lock:
            yield name
        (self._folder / f"{name}.lock").unlink(missing_ok=True)

    def dead(self, name: str) -> bool:
        """Whether a worker of this folder is gone; of another's, nothing is known."""
        path = self._folder / f"{name}.lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return True
        except Timeout:
            return False


def retry_lost(study: Study, workers: Workers, *, retries: int = 3) -> list[FrozenTrial]:
    """Fail the running trials of dead workers and queue them again; the lost trials."""
    lost = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        if not (workers.dead(worker) if worker else _never_named(trial)):
            continue
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):
            # Another process has queued it already.
            continue
        with experimental():
            RetryHeartbeatStaleTrialCallback(max_retry=retries)(study, study.trials[trial.number])
        lost.append(trial)
    return lost


def _never_named(trial: FrozenTrial) -> bool:
    """Whether a trial's worker must have been killed before it could write its name, which it does at once."""
    return trial.datetime_start is not None and datetime.now() - trial.datetime_start > UNNAMED


def finished(study: Study) -> Sequence[FrozenTrial]:
    """Trials with values whose constraints hold, duplicates included."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if all(value <= 0 for value in trial.constraints.values())
    ]


def _unhurried(engine: Engine) -> None:
    """Let sqlite sync to disk at checkpoints, not at each of a trial's thirty commits.

    With a write-ahead log a killed process loses nothing by it; a power failure may cost the last seconds.
    """

    def set_pragmas(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(engine, "connect", set_pragmas)
    engine.dispose()


@contextmanager
def experimental() -> Iterator[None]:
    """Where Optuna's interface may still change; the tests say when it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
