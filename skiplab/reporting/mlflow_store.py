"""MLflow: one parent run per experiment, one child per method and setting. The only `mlflow` import.

Of a job's ranks the first one alone has runs, and writes.

A store that is lost on the way ends the tracking, not the work: it is told of once, and what follows is not tracked.
The jobs' run folders hold what they need to write it later.
"""

import json
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS
from sqlalchemy.exc import SQLAlchemyError

from skiplab.export import mlflow_model
from skiplab.utils.distributed import first_only, is_first

if TYPE_CHECKING:
    from datasets import Dataset

F = TypeVar("F", bound=Callable[..., Any])
# MLflow's own would have a run stand still for minutes. Those of the user's environment stay.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_lost: list[str] = []


def lost() -> str | None:
    """Why nothing more is tracked; None as long as the store is there."""
    return _lost[0] if _lost else None


def _unless_lost(otherwise: Any) -> Callable[[F], F]:
    """Make a function do nothing and return `otherwise` once the store is lost."""

    def decorate(function: F) -> F:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if _lost:
                return otherwise
            try:
                return function(*args, **kwargs)
            except (MlflowException, OSError) as error:
                if not _is_away(error):
                    raise
                _lose(error)
                return otherwise

        return guarded  # type: ignore[return-value]

    return decorate


def _is_away(error: Exception) -> bool:
    """Whether an error is the store's, and not a call's that no store would take."""
    if isinstance(error, MlflowException):
        return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
    return not isinstance(error, FileNotFoundError)


def _lose(error: Exception) -> None:
    _lost.append(f"the tracking store {mlflow.get_tracking_uri()} is lost: {str(error).splitlines()[0]:.300}")
    message = f"{_lost[0]}; the work goes on without it, and the same command started again writes what is missing"
    warnings.warn(message, stacklevel=3)


def connect(uri: str, experiment: str) -> None:
    """Use a tracking store and an experiment in it, made if it is not there.

    A sqlite store keeps its artifacts in the folder `mlartifacts` beside it.

    Raises:
        ValueError: the store cannot be used.
    """
    location = None
    _lost.clear()
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///")).absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _make_store(path)
            uri, location = f"sqlite:///{path}", (path.parent / "mlartifacts").as_uri()
        mlflow.set_tracking_uri(uri)
        if mlflow.get_experiment_by_name(experiment) is None:
            mlflow.create_experiment(experiment, artifact_location=location)
        mlflow.set_experiment(experiment)
        if uri.startswith("sqlite:///"):
            # Writers in several processes, and fewer waits for the disk.
            with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=60)) as store:
                store.execute("PRAGMA journal_mode=WAL")
        # The UI otherwise guesses between its two layouts.
        mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")
    except (MlflowException, OSError, SQLAlchemyError) as error:
        raise ValueError(f"cannot use the tracking store {uri}: {error}") from error


def _make_store(path: Path) -> None:
    """A sqlite store, there whole or not at all: MLflow would not open one that a kill left half made."""
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink()
    made = path.with_name(f".{path.name}.{os.getpid()}")
    mlflow.MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
    try:
        os.link(made, path)
    except OSError:
        # Another process was first, or the file system has no links.
        if not path.exists():
            made.rename(path)
    made.unlink(missing_ok=True)


@contextmanager
def run(name: str, *, run_id: str | None = None, nested: bool = False, tags: Mapping[str, Any] = {}) -> Iterator[str]:
    """An active run; yields its id, empty if there is none since the store is lost.

    It ends FINISHED, KILLED when interrupted, FAILED when anything raises.

    Args:
        run_id: a run to go on with, if the store has it.
        nested: make it a child of the active run.
    """
    if not is_first():
        yield ""
        return
    tags = {key: str(value) for key, value in tags.items()}
    run_id = _start(run_id, run_name=name, nested=nested, tags=tags) or run_id or ""
    try:
        yield run_id
    except (KeyboardInterrupt, SystemExit):
        _end("KILLED")
        raise
    except BaseException:
        _end("FAILED")
        raise
    _end("FINISHED")


@_unless_lost("")
def _start(run_id: str | None, **options: Any) -> str:
    try:
        return mlflow.start_run(run_id=run_id, **options).info.run_id
    except MlflowException as error:
        if run_id is None or _is_away(error):
            raise
        # The store or the experiment is another one by now, or the run was deleted.
        return mlflow.start_run(**options).info.run_id


def _end(status: str) -> None:
    if not _lost:
        _unless_lost(None)(mlflow.end_run)(status)
    else:
        # MLflow would try once more as Python ends. Should the store be back, the run is none that has everything.
        with suppress(MlflowException, OSError):
            mlflow.end_run("KILLED")


@_unless_lost(True)
def complete(run_id: str | None) -> bool:
    """Whether the active run's experiment has a run that finished, not deleted."""
    active = mlflow.active_run()
    if run_id is None or active is None:
        return False
    try:
        info = mlflow.get_run(run_id).info
    except MlflowException as error:
        if _is_away(error):
            raise
        return False
    mine = info.lifecycle_stage == "active" and info.experiment_id == active.info.experiment_id
    return mine and info.status == "FINISHED"


@first_only
@_unless_lost(None)
def log_params(params: Mapping[str, Any]) -> None:
    """Parameters of the active run; those that it already has stay."""
    active = mlflow.active_run()
    assert active is not None
    known = mlflow.get_run(active.info.run_id).data.params
    mlflow.log_params({key: value for key, value in params.items() if key not in known})


@first_only
@_unless_lost(None)
def log_figures(row: Mapping[str, Any], *, group: str = "", run_id: str | None = None) -> None:
    """Numbers of a result row as metrics; a pair, such as an interval, as two in the group `spread`.

    Args:
        group: prefix under which the UI shows them together, such as `batch32/`.
    """
    metrics: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, bool) or key in ("seed", "batch_size", "timing_rounds"):
            continue
        if isinstance(value, int | float):
            metrics[f"{group}{key}"] = float(value)
        elif isinstance(value, list):
            ends = zip(("low", "high"), value, strict=True)
            metrics |= {f"{group}spread/{key}_{end}": float(bound) for end, bound in ends}
    mlflow.log_metrics(metrics, run_id=run_id)


@first_only
@_unless_lost(None)
def log_series(name: str, values: Sequence[float], *, first_step: int = 0, run_id: str | None = None) -> None:
    """A metric by generation step."""
    target = run_id or mlflow.active_run().info.run_id  # type: ignore[union-attr]
    points = [Metric(name, float(value), 0, step) for step, value in enumerate(values, start=first_step)]
    mlflow.MlflowClient().log_batch(target, metrics=points)


@first_only
@_unless_lost(None)
def log_dataset(split: "Dataset", name: str, context: str) -> None:
    """Record a split as an input of the active run."""
    dataset = mlflow.data.from_huggingface(split, name=name)  # type: ignore[attr-defined]
    mlflow.log_input(dataset, context=context)


@first_only
@_unless_lost(None)
def log_table(columns: Mapping[str, Sequence[Any]], path: str) -> None:
    """A table as an artifact of the active run, which the UI can show side by side for several runs."""
    # As `mlflow.log_table` does, which would add to the rows of an earlier attempt.
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    mlflow.log_dict({"columns": list(columns), "data": rows}, path)
    active = mlflow.active_run()
    assert active is not None
    tags = mlflow.get_run(active.info.run_id).data.tags
    tables = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    if (entry := {"path": path, "type": "table"}) not in tables:
        mlflow.set_tag(MLFLOW_LOGGED_ARTIFACTS, json.dumps([*tables, entry]))


@first_only
@_unless_lost(None)
def log_points(run_id: str, points: Sequence[tuple[str, float, int, int]]) -> None:
    """Points of curves as metrics of a run: name, value, milliseconds since 1970 and step."""
    client = mlflow.MlflowClient()
    for first in range(0, len(points), 1000):
        client.log_batch(run_id, metrics=[Metric(*point) for point in points[first : first + 1000]])


@first_only
@_unless_lost(None)
def set_note(markdown: str) -> None:
    """The text at the head of the active run's page."""
    mlflow.set_tag("mlflow.note.content", markdown)


@first_only
@_unless_lost(None)
def log_file(path: Path, folder: str | None = None) -> None:
    """A file as an artifact of the active run."""
    mlflow.log_artifact(os.fspath(path), folder)


@first_only
@_unless_lost(None)
def register_method(folder: Path, name: str, *, tags: Mapping[str, Any] = {}) -> None:
    """A folder of `save_method` as a model of the active run, and as a new version of a registered model.

    Args:
        tags: of the version.
    """
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, mlflow_model.PROMPT)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec("batch_size", DataType.long, mlflow_model.DEFAULT_BATCH_SIZE)]),
    )
    with warnings.catch_warnings():
        # MLflow asks for an example, for which it would load the model once more, and warns of its own type hints.
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        info = mlflow.pyfunc.log_model(
            name="method",
            loader_module=mlflow_model.__name__,
            data_path=os.fspath(folder),
            code_paths=[os.fspath(path) for path in mlflow_model.code()],
            pip_requirements=mlflow_model.requirements(),
            signature=signature,
            registered_model_name=name,
        )
    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(name, str(info.registered_model_version), key, str(value))


@first_only
@_unless_lost(None)
def log_text(text: str, path: str, run_id: str | None = None) -> None:
    """A text as an artifact."""
    mlflow.log_text(text, path, run_id=run_id)


@_unless_lost("")
def new_run(name: str, parent: str, tags: Mapping[str, Any] = {}) -> str:
    """A run below a parent, which does not become the active one; its id."""
    client = mlflow.MlflowClient()
    made = {"mlflow.parentRunId": parent, **{key: str(value) for key, value in tags.items()}}
    return client.create_run(_experiment_of(parent), run_name=name, tags=made).info.run_id


@cache
def _experiment_of(run_id: str) -> str:
    return mlflow.MlflowClient().get_run(run_id).info.experiment_id


@_unless_lost(None)
def finish_run(
    run_id: str, status: str, *, params: Mapping[str, Any] = {}, figures: Mapping[str, float] = {}, note: str = ""
) -> None:
    """Write parameters, figures and note of a run of `new_run` at once, and end it.

    Args:
        status: `FINISHED`, `FAILED` or `KILLED`.
    """
    client = mlflow.MlflowClient()
    client.log_batch(
        run_id,
        metrics=[Metric(name, float(value), 0, 0) for name, value in figures.items()],
        params=[Param(name, str(value)) for name, value in params.items()],
        tags=[RunTag("mlflow.note.content", note)] if note else [],
    )
    client.set_terminated(run_id, status)


@_unless_lost(None)
def end_lost_run(run_id: str) -> None:
    """End a run whose process died, if the store has it."""
    with suppress(MlflowException):
        mlflow.MlflowClient().set_terminated(run_id, "KILLED")
