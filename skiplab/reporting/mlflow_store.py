"""Open an MLflow store, and an experiment in it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

# MLflow's own defaults would have a run stand still for minutes. What the user's environment sets stays.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def connect(uri: str, experiment: str) -> None:
    """Make a tracking store, and an experiment in it, MLflow's current ones; both are made if they are not there.

    A sqlite store keeps its artifacts in the folder `mlartifacts` beside it.

    Raises:
        ValueError: the store cannot be used.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    location = None
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
