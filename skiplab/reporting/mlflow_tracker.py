"""MLflow: one parent run per experiment, one child per method and setting.

If the store is lost, tracking stops with one warning, and the job continues. Run folders hold everything that is needed
to log the run later.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Self, TypeVar, final

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID

from skiplab.export import mlflow_model
from skiplab.reporting import mlflow_store
from skiplab.reporting.tracker import Point, Tracker
from skiplab.utils.interrupts import uninterrupted

if TYPE_CHECKING:
    from datasets import Dataset

F = TypeVar("F", bound=Callable[..., Any])
_POINTS_PER_REQUEST = 1000
# Error codes of a working store for requests that are invalid, or for things that do not exist.
_OF_THE_CALL = (
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS",
)  # fmt: skip


def _unless_lost(otherwise: Any) -> Callable[[F], F]:
    """Decorator: the method is uninterrupted; once the store is lost, it does nothing and returns `otherwise`."""

    def decorate(method: F) -> F:
        @wraps(method)
        def guarded(self: "MLflowTracker", *args: Any, **kwargs: Any) -> Any:
            if self.lost:
                return otherwise
            try:
                with uninterrupted():
                    return method(self, *args, **kwargs)
            except (MlflowException, OSError) as error:
                if not _is_of_the_store(error):
                    raise
                self.lose(error)
                return otherwise

        return guarded  # type: ignore[return-value]

    return decorate


def _now() -> int:
    """The time of a metric: milliseconds since 1970."""
    return round(1000 * time())


def _is_of_the_store(error: Exception) -> bool:
    """Whether an error is the store's (unreachable, or access denied), and not that of an invalid call."""
    if isinstance(error, MlflowException):
        return error.error_code not in _OF_THE_CALL
    return not isinstance(error, FileNotFoundError)


@final
class MLflowTracker(Tracker):
    """Runs in MLflow's current store and experiment; see `open`."""

    def __init__(self) -> None:
        self._lost: str | None = None
        self._experiments: dict[str, str] = {}

    @classmethod
    def open(cls, uri: str, experiment: str) -> Self:
        """Connect to a store.

        Raises:
            ValueError: the store cannot be used.
        """
        mlflow_store.connect(uri, experiment)
        return cls()

    @property
    def lost(self) -> str | None:
        return self._lost

    def lose(self, error: Exception) -> None:
        """Stop tracking, and warn."""
        self._lost = f"the tracking store {mlflow.get_tracking_uri()} is lost: {str(error).splitlines()[0]:.300}"
        warnings.warn(
            f"{self._lost}; the run continues without it. Run the same command again later to write what is missing",
            stacklevel=3,
        )

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
        known = {**tags, **({MLFLOW_PARENT_RUN_ID: parent} if parent else {})}
        tags = {key: str(value) for key, value in known.items()}
        run_id = run_id or (self._begun(name, parent) if parent or nested else None)
        run_id = self._start(run_id, run_name=name, nested=nested and not parent, tags=tags) or run_id or ""
        try:
            yield run_id
        except (KeyboardInterrupt, SystemExit):
            self._end("KILLED")
            raise
        except BaseException:
            self._end("FAILED")
            raise
        self._end("FINISHED")

    @_unless_lost(None)
    def _begun(self, name: str, parent: str | None) -> str | None:
        """The run of a process that was killed before it could note the run's id; `parent` None is the active run."""
        if parent is None and (active := mlflow.active_run()):
            parent = active.info.run_id
        running = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' and attributes.status = 'RUNNING'"
        runs = mlflow.search_runs([self._experiment_of(parent)], running, output_format="list") if parent else []
        return next((run.info.run_id for run in runs if run.info.run_name == name), None)

    @_unless_lost("")
    def _start(self, run_id: str | None, **options: Any) -> str:
        try:
            return mlflow.start_run(run_id=run_id, **options).info.run_id
        except MlflowException as error:
            if run_id is None or _is_of_the_store(error):
                raise
            # The store or the experiment has changed since, or the run was deleted.
            return mlflow.start_run(**options).info.run_id

    def _end(self, status: str) -> None:
        self._end_active_run(status)
        if self.lost:
            # MLflow would end the run again at Python's exit; if the store is back by then, it must not look complete.
            with suppress(MlflowException, OSError):
                mlflow.end_run("KILLED")

    @_unless_lost(None)
    def _end_active_run(self, status: str) -> None:
        mlflow.end_run(status)

    @_unless_lost(True)
    def complete(self, run_id: str | None) -> bool:
        active = mlflow.active_run()
        if run_id is None or active is None:
            return False
        try:
            info = mlflow.get_run(run_id).info
        except MlflowException as error:
            if _is_of_the_store(error):
                raise
            return False
        mine = info.lifecycle_stage == "active" and info.experiment_id == active.info.experiment_id
        return mine and info.status == "FINISHED"

    @_unless_lost(None)
    def log_params(self, params: Mapping[str, Any]) -> None:
        active = mlflow.active_run()
        assert active is not None
        known = mlflow.get_run(active.info.run_id).data.params
        mlflow.log_params({key: value for key, value in params.items() if key not in known})

    @_unless_lost(None)
    def log_figures(self, row: Mapping[str, Any], *, group: str = "", run_id: str | None = None) -> None:
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

    @_unless_lost(None)
    def log_series(self, name: str, values: Sequence[float], *, first_step: int = 0, run_id: str | None = None) -> None:
        target = run_id or mlflow.active_run().info.run_id  # type: ignore[union-attr]
        points = [Metric(name, float(value), _now(), step) for step, value in enumerate(values, start=first_step)]
        mlflow.MlflowClient().log_batch(target, metrics=points)

    @_unless_lost(None)
    def log_dataset(self, split: "Dataset", name: str, context: str) -> None:
        dataset = mlflow.data.from_huggingface(split, name=name)  # type: ignore[attr-defined]
        try:
            mlflow.log_input(dataset, context=context)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            # Another process stored the same data after MLflow had looked for it. MLflow finds it now.
            mlflow.log_input(dataset, context=context)

    @_unless_lost(None)
    def log_table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None:
        # Like `mlflow.log_table`, which would append to the rows of an earlier attempt.
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        mlflow.log_dict({"columns": list(columns), "data": rows}, path)
        active = mlflow.active_run()
        assert active is not None
        tags = mlflow.get_run(active.info.run_id).data.tags
        tables = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        if (entry := {"path": path, "type": "table"}) not in tables:
            mlflow.set_tag(MLFLOW_LOGGED_ARTIFACTS, json.dumps([*tables, entry]))

    @_unless_lost(None)
    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        client = mlflow.MlflowClient()
        for first in range(0, len(points), _POINTS_PER_REQUEST):
            client.log_batch(run_id, metrics=[Metric(*point) for point in points[first : first + _POINTS_PER_REQUEST]])

    @_unless_lost(None)
    def set_note(self, markdown: str) -> None:
        mlflow.set_tag("mlflow.note.content", markdown)

    @_unless_lost(None)
    def log_file(self, path: Path, folder: str | None = None) -> None:
        mlflow.log_artifact(os.fspath(path), folder)

    @_unless_lost(None)
    def register_method(self, folder: Path, name: str, *, tags: Mapping[str, Any] = {}) -> None:
        signature = ModelSignature(
            inputs=Schema([ColSpec(DataType.string, mlflow_model.PROMPT)]),
            outputs=Schema([ColSpec(DataType.string)]),
            params=ParamSchema(
                [
                    ParamSpec(name, param.type, param.default, (-1,) if param.several else None)
                    for name, param in mlflow_model.PARAMS.items()
                ]
            ),
        )
        with warnings.catch_warnings():
            # MLflow asks for an input example, which would load the model again, and warns about its own type hints.
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

    @_unless_lost(None)
    def log_text(self, text: str, path: str) -> None:
        mlflow.log_text(text, path)

    @_unless_lost("")
    def new_run(self, name: str, parent: str, tags: Mapping[str, Any] = {}) -> str:
        client = mlflow.MlflowClient()
        made = {"mlflow.parentRunId": parent, **{key: str(value) for key, value in tags.items()}}
        return client.create_run(self._experiment_of(parent), run_name=name, tags=made).info.run_id

    def _experiment_of(self, run_id: str) -> str:
        if run_id not in self._experiments:
            self._experiments[run_id] = mlflow.MlflowClient().get_run(run_id).info.experiment_id
        return self._experiments[run_id]

    @_unless_lost(None)
    def finish_run(
        self,
        run_id: str,
        status: str,
        *,
        params: Mapping[str, Any] = {},
        figures: Mapping[str, float] = {},
        note: str = "",
    ) -> None:
        client = mlflow.MlflowClient()
        client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), _now(), 0) for name, value in figures.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
            tags=[RunTag("mlflow.note.content", note)] if note else [],
        )
        client.set_terminated(run_id, status)

    @_unless_lost(None)
    def end_lost_run(self, run_id: str) -> None:
        with suppress(MlflowException):
            mlflow.MlflowClient().set_terminated(run_id, "KILLED")
