"""One comparison by several processes: the same figures, no work done twice, none lost with a killed process."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from skiplab.comparison.claims import Claims
from skiplab.comparison.comparison import Comparison
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import Session, open_tracker
from skiplab.comparison.workers import helped_by
from skiplab.jobs.compare import compare
from skiplab.utils.run_folder import RunFolder
from tests.comparison.small import small_config

SETTINGS = (
    "~methods.calm_calibrated",
    "~methods.skipdecode_calibrated",
    "+methods.faulty={name:faulty,_target_:tests.comparison.faulty.FailsInTraining,sweep:{}}",
    "benchmark.batch_sizes=[]",
)


pytestmark = pytest.mark.usefixtures("no_plots")


def compared(home: Path) -> dict[tuple, dict[str, Any]]:
    """The figures of a run's settings, except training times."""
    rows = json.loads((home / "run" / "results.json").read_text())["rows"]
    return {
        (row["method"], row["setting"]): {key: value for key, value in row.items() if key != "train_cpu_s"}
        for row in rows
    }


@pytest.fixture(scope="module")
def alone(no_plots_in_module: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("alone")
    assert compare(small_config(home, *SETTINGS), home / "run") is False
    return home


def test_two_workers_in_turns_make_what_one_process_makes(alone: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path, *SETTINGS, "tracking.uri=null")
    workers = [
        Comparison(Session(prepared := prepare(config), RunFolder(tmp_path / "run"), open_tracker(prepared.config)))
        for _ in range(2)
    ]
    claims = [Claims(tmp_path / "run" / "claims", "run") for _ in workers]
    records = tmp_path / "run" / "settings"

    def made() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in records.glob("*.json")}

    for number in range(len(compared(alone))):
        worker, claim = workers[number % 2], claims[number % 2]
        worker.work(claim, lambda number=number: len(made()) <= number)
    first = made()
    assert len(first) == len(compared(alone)) - 1
    # The parent process repeats no finished setting, but retries settings that failed in earlier runs.
    assert compare(config, tmp_path / "run") is False
    assert made() == first
    assert compared(tmp_path) == compared(alone)


def test_a_worker_process_makes_the_settings(alone: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path, *SETTINGS)
    prepared = prepare(config)
    tracker = open_tracker(prepared.config)
    session = Session(prepared, RunFolder(tmp_path / "run"), tracker)
    with (
        session.run("parent", "compare", nested=False) as parent,
        helped_by(session, parent, workers=2) as claims,
    ):
        assert claims is not None
        expected = {f"{entry}.json" for entry in (path.stem for path in (alone / "run" / "settings").iterdir())}
        deadline = time.monotonic() + 120
        while {path.name for path in (tmp_path / "run").glob("settings/*.json")} != expected:
            assert time.monotonic() < deadline, (tmp_path / "run" / "worker-1.log").read_text()
            time.sleep(0.1)
    assert claims.failed("faulty-always-seed-0") == "RuntimeError: no loss today"
    assert compare(config, tmp_path / "run") is False
    assert compared(tmp_path) == compared(alone)
    import mlflow

    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert {run.info.run_name for run in children} >= {"base", "full 1x", "skipdecode 2x", "faulty always"}


def test_a_claim_belongs_to_one_process_and_ends_with_it(tmp_path: Path) -> None:
    first, second = Claims(tmp_path, "run"), Claims(tmp_path, "run")
    with first.attempt(["a", "training-x"]) as mine:
        assert mine
        with second.attempt(["b", "training-x"]) as taken:
            assert not taken
        # A failed attempt releases the claims that it got.
        with second.attempt(["b"]) as free:
            assert free
    child = os.fork()
    if not child:
        with first.attempt(["a"]):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with second.attempt(["a"]) as mine:
        assert mine


def test_a_failure_is_remembered_only_within_its_run(tmp_path: Path) -> None:
    Claims(tmp_path, "run").fail("a", "because")
    assert Claims(tmp_path, "run").failed("a") == "because"
    assert Claims(tmp_path, "run").failed("b") is None
    assert Claims(tmp_path, "later").failed("a") is None


def test_workers_and_shared_trainings_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"workers=2 .* trainer.devices .* set the other to 1"):
        prepare(small_config(tmp_path, "workers=2", "trainer.devices=2"), allow_distributed=True)
