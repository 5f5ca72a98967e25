"""Open an MLflow store and an experiment in it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import mlflow
import sqlalchemy
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from skiplab.utils.files import is_in_memory
from skiplab.utils.locks import exclusive

# With MLflow's defaults a run would hang for minutes. Values in the user's environment take precedence.
_PATIENCE = MappingProxyType({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"})
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_DATABASES = ("postgresql", "mysql", "mssql")
# Without it the UI guesses which of its two layouts to show.
_LAYOUT = MappingProxyType({"mlflow.experimentKind": "custom_model_development"})
# By missing module, the command that installs it.
_DRIVERS = MappingProxyType(
    {
        "psycopg2": "pip install psycopg2-binary, or 'skiplab[postgresql]' and a URI of postgresql+psycopg://...",
        "psycopg": "pip install 'skiplab[postgresql]'",
        "MySQLdb": "pip install mysqlclient",
    }
)


def connect(uri: str, experiment: str) -> None:
    """Make a tracking store and an experiment in it MLflow's current ones; both are created if they do not exist.

    A sqlite store keeps its artifacts in the folder `mlartifacts` beside it.

    Raises:
        ValueError: the store cannot be used.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    if is_in_memory(uri):
        raise ValueError(f"the tracking store {uri} is in memory and would be lost; give a file, as sqlite:///FILE")
    location = None
    try:
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///")).absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_store(path)
            # MLflow would retry for minutes where sqlite refuses at once.
            with closing(sqlite3.connect(path, timeout=60)) as store:
                store.execute("PRAGMA schema_version")
            uri, location = f"sqlite:///{path}", (path.parent / "mlartifacts").as_uri()
        elif uri.startswith(_DATABASES):
            # MLflow would try for minutes to reach a missing database.
            sqlalchemy.create_engine(uri).connect().close()
        _make_current(uri)
        _make_experiment(experiment, location)
        mlflow.set_experiment(experiment)
        if uri.startswith("sqlite:///"):
            # WAL allows writers in several processes, and waits less for the disk.
            with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=60)) as store:
                store.execute("PRAGMA journal_mode=WAL")
        _check_run_of_environment()
    except ModuleNotFoundError as error:
        driver = error.name or str(error)
        install = _DRIVERS.get(driver, f"pip install {driver}")
        raise ValueError(f"the tracking store {uri} needs the database driver {driver}: {install}") from error
    except (MlflowException, OSError, SQLAlchemyError, sqlite3.Error) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"cannot use the tracking store {uri}: {reason}; give another as tracking.uri=URI, or tracking=none"
        ) from error


def _make_current(uri: str) -> None:
    """Set MLflow's URI and restore the environment: MLflow puts the URI there, where the next run would take it for the
    user's."""
    given = os.environ.get(_URI_VARIABLE)
    mlflow.set_tracking_uri(uri)
    if given is None:
        os.environ.pop(_URI_VARIABLE, None)
    else:
        os.environ[_URI_VARIABLE] = given


def _make_store(path: Path) -> None:
    """Create a sqlite store atomically: MLflow cannot open one that a kill left incomplete."""
    if path.exists():
        return
    with exclusive(path.with_name(f".{path.name}.lock"), f"the new store {path}"):
        for left in path.parent.glob(f".{path.name}.[0-9]*"):
            left.unlink()
        if not path.exists():
            made = path.with_name(f".{path.name}.{os.getpid()}")
            mlflow.MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
            made.rename(path)


def _make_experiment(name: str, location: str | None) -> None:
    if mlflow.get_experiment_by_name(name) is not None:
        return
    try:
        mlflow.create_experiment(name, artifact_location=location, tags=dict(_LAYOUT))
    except MlflowException as error:
        # Another process created it first.
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _check_run_of_environment() -> None:
    """Check `MLFLOW_RUN_ID`, the run that MLflow resumes.

    Raises:
        ValueError: the store has no run with this id.
    """
    if not (run_id := os.environ.get("MLFLOW_RUN_ID")):
        return
    try:
        mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise ValueError(
            f"MLFLOW_RUN_ID={run_id} is not a run of the tracking store {mlflow.get_tracking_uri()}; unset it"
        ) from error
