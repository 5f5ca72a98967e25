"""A tracking store made in advance: MLflow takes seconds to create one, which few tests are about."""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import mlflow


def ready_store(folder: Path) -> str:
    """URI of the store `mlflow.db` in a folder; if there is none, an empty one is copied there."""
    path = folder / "mlflow.db"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"mlflow.{os.getpid()}"
        shutil.copyfile(_new_store(), copy)
        copy.rename(path)
    return f"sqlite:///{path}"


def written(folder: Path) -> list[Path]:
    """The contents of a folder, without the store of `ready_store` if nothing was written to it."""
    untouched = _new_store().read_bytes()
    return [path for path in folder.iterdir() if path.name != "mlflow.db" or path.read_bytes() != untouched]


@cache
def _new_store() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="skiplab-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path
