"""MLflow: one parent run per experiment, one child per method and setting. The only `mlflow` import.

Of a job's ranks the first one alone has runs, and writes.
"""

import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from skiplab import served
from skiplab.ranks import first_only, is_first

if TYPE_CHECKING:
    from datasets import Dataset
    from lightning.pytorch.loggers import MLFlowLogger


def connect(uri: str, experiment: str) -> None:
    """Use a tracking store and an experiment in it, made if it is not there.

    A sqlite store keeps its artifacts in the folder `mlartifacts` beside it.

    Raises:
        ValueError: the store cannot be used.
    """
    location = None
    try:
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///")).absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
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
    except (MlflowException, OSError) as error:
        raise ValueError(f"cannot use the tracking store {uri}: {error}") from error


@contextmanager
def run(name: str, *, run_id: str | None = None, nested: bool = False, tags: Mapping[str, Any] = {}) -> Iterator[str]:
    """An active run; yields its id. It ends FINISHED, KILLED when interrupted, FAILED when anything raises.

    Args:
        run_id: a run to go on with, if the store has it.
        nested: make it a child of the active run.
    """
    if not is_first():
        yield ""
        return
    options: dict[str, Any] = {"run_name": name, "nested": nested, "tags": {k: str(v) for k, v in tags.items()}}
    try:
        active = mlflow.start_run(run_id=run_id, **options)
    except MlflowException:
        # The store or the experiment is another one by now, or the run was deleted.
        active = mlflow.start_run(**options)
    try:
        yield active.info.run_id
    except (KeyboardInterrupt, SystemExit):
        mlflow.end_run("KILLED")
        raise
    except BaseException:
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run("FINISHED")


def exists(run_id: str | None) -> bool:
    """Whether the active run's experiment has a run, not deleted."""
    active = mlflow.active_run()
    if run_id is None or active is None:
        return False
    try:
        info = mlflow.get_run(run_id).info
    except MlflowException:
        return False
    return info.lifecycle_stage == "active" and info.experiment_id == active.info.experiment_id


def lightning_logger(run_id: str) -> "MLFlowLogger":
    """A Lightning logger that writes training curves to a run."""
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(run_id=run_id, tracking_uri=mlflow.get_tracking_uri())


@first_only
def log_params(params: Mapping[str, Any]) -> None:
    """Parameters of the active run; those that it already has stay."""
    active = mlflow.active_run()
    assert active is not None
    known = mlflow.get_run(active.info.run_id).data.params
    mlflow.log_params({key: value for key, value in params.items() if key not in known})


@first_only
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
def log_series(name: str, values: Sequence[float], *, first_step: int = 0, run_id: str | None = None) -> None:
    """A metric by generation step."""
    target = run_id or mlflow.active_run().info.run_id  # type: ignore[union-attr]
    points = [Metric(name, float(value), 0, step) for step, value in enumerate(values, start=first_step)]
    mlflow.MlflowClient().log_batch(target, metrics=points)


@first_only
def log_dataset(split: "Dataset", name: str, context: str) -> None:
    """Record a split as an input of the active run."""
    dataset = mlflow.data.from_huggingface(split, name=name)  # type: ignore[attr-defined]
    mlflow.log_input(dataset, context=context)


@first_only
def log_table(columns: Mapping[str, Sequence[Any]], path: str) -> None:
    """A table as an artifact of the active run, which the UI can show side by side for several runs."""
    mlflow.log_table(dict(columns), path)


@first_only
def set_note(markdown: str) -> None:
    """The text at the head of the active run's page."""
    mlflow.set_tag("mlflow.note.content", markdown)


@first_only
def log_file(path: Path, folder: str | None = None) -> None:
    """A file as an artifact of the active run."""
    mlflow.log_artifact(os.fspath(path), folder)


@first_only
def register_method(folder: Path, name: str, *, tags: Mapping[str, Any] = {}) -> None:
    """A folder of `save_method` as a model of the active run, and as a new version of a registered model.

    Args:
        tags: of the version.
    """
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, served.PROMPT)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec("batch_size", DataType.long, served.DEFAULT_BATCH_SIZE)]),
    )
    with warnings.catch_warnings():
        # MLflow asks for an example, for which it would load the model once more, and warns of its own type hints.
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        info = mlflow.pyfunc.log_model(
            name="method",
            loader_module=served.__name__,
            data_path=os.fspath(folder),
            code_paths=[os.fspath(path) for path in served.code()],
            pip_requirements=served.requirements(),
            signature=signature,
            registered_model_name=name,
        )
    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(name, str(info.registered_model_version), key, str(value))


@first_only
def log_text(text: str, path: str, run_id: str | None = None) -> None:
    """A text as an artifact."""
    mlflow.log_text(text, path, run_id=run_id)


def new_run(name: str, parent: str, tags: Mapping[str, Any] = {}) -> str:
    """A run below a parent, which does not become the active one; its id."""
    client = mlflow.MlflowClient()
    made = {"mlflow.parentRunId": parent, **{key: str(value) for key, value in tags.items()}}
    return client.create_run(_experiment_of(parent), run_name=name, tags=made).info.run_id


@cache
def _experiment_of(run_id: str) -> str:
    return mlflow.MlflowClient().get_run(run_id).info.experiment_id


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


def end_lost_run(run_id: str) -> None:
    """End a run whose process died, if the store has it."""
    with suppress(MlflowException):
        mlflow.MlflowClient().set_terminated(run_id, "KILLED")
