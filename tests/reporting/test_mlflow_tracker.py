"""MLflow runs and what is logged to them."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from datasets import Dataset
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from skiplab.reporting.mlflow_tracker import MLflowTracker
from skiplab.reporting.tracker import NoTracker, Tracker
from tests.store import ready_store


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return MLflowTracker.open(ready_store(tmp_path / "store"), "test")


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_has_the_status_of_its_work(tracker: Tracker, error: type[BaseException] | None, status: str) -> None:
    run_id = ""
    try:
        with tracker.run("work") as run_id:
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt, SystemExit):
        pass
    assert mlflow.get_run(run_id).info.status == status
    assert mlflow.active_run() is None


def test_a_known_run_is_continued_and_an_unknown_one_created(tracker: Tracker) -> None:
    with tracker.run("work") as first:
        tracker.log_params({"a": 1})
    with tracker.run("work", run_id=first) as again:
        tracker.log_params({"a": 2, "b": 3})
    assert again == first
    assert mlflow.get_run(first).data.params == {"a": "1", "b": "3"}
    with tracker.run("work", run_id="0" * 32) as other:
        assert other != first


def test_a_run_whose_process_was_killed_at_its_beginning_is_continued(tracker: Tracker) -> None:
    with tracker.run("whole") as whole:
        tracker.new_run("other", whole)
        begun = tracker.new_run("part", whole)
        for expected in (True, False):
            # Once finished it is no longer taken for one that was killed.
            with tracker.run("part", nested=True) as part:
                assert (part == begun) == expected
        begun = tracker.new_run("part", whole)
    # In a process that helps the first one.
    with tracker.run("part", parent=whole) as part:
        assert part == begun


def test_figures_series_and_artifacts(tracker: Tracker, tmp_path: Path) -> None:
    with tracker.run("parent"), tracker.run("child", nested=True) as run_id:
        tracker.log_figures({"method": "x", "seed": 3, "bleu": 40.0, "bleu_ci95": [39.0, 41.0]}, group="b1/")
        tracker.log_series("depth", [12, 4, 3])
        tracker.log_text("hello", "error.txt")
    run = mlflow.get_run(run_id)
    assert run.data.metrics == {
        "b1/bleu": 40,
        "b1/spread/bleu_ci95_low": 39,
        "b1/spread/bleu_ci95_high": 41,
        "depth": 3,
    }
    client = mlflow.MlflowClient()
    assert [point.value for point in client.get_metric_history(run_id, "depth")] == [12, 4, 3]
    assert (tmp_path / "store" / "mlartifacts" / run_id / "artifacts" / "error.txt").read_text() == "hello"


def test_without_a_tracker_the_same_work_leaves_no_run(tmp_path: Path) -> None:
    tracker = NoTracker()
    with tracker.run("parent"), tracker.run("child", nested=True) as run_id:
        tracker.log_figures({"bleu": 40.0})
        tracker.log_file(tmp_path / "missing.txt")
    assert run_id == ""
    assert tracker.complete(run_id)
    assert mlflow.active_run() is None


def test_data_that_another_process_stores_at_the_same_time_are_logged(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = SqlAlchemyStore.log_inputs, 0

    def beaten(self: SqlAlchemyStore, *args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed", error_code=BAD_REQUEST)
        real(self, *args, **kwargs)

    monkeypatch.setattr(SqlAlchemyStore, "log_inputs", beaten)
    with tracker.run("work") as run_id:
        tracker.log_dataset(Dataset.from_dict({"prompt": ["a"]}), "task train", "training")
    inputs = mlflow.get_run(run_id).inputs
    assert inputs is not None
    assert [one.dataset.name for one in inputs.dataset_inputs] == ["task train"]


def test_a_new_experiment_says_which_layout_the_ui_shows(tracker: Tracker) -> None:
    experiment = mlflow.get_experiment_by_name("test")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
