"""One comparison by several processes: the same figures, no work done twice, none lost with a killed process."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from skiplab.comparison.claims import Claims
from skiplab.comparison.comparison import Comparison
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import Session, open_session, open_tracker
from skiplab.comparison.worker_count import worker_count
from skiplab.comparison.workers import helped_by, join, start
from skiplab.jobs.compare import compare
from skiplab.utils.run_folder import RunFolder
from tests.comparison.small import small_config
from tests.faults.processes import Child, in_child

SETTINGS = (
    "~methods.calm_calibrated",
    "~methods.skipdecode_calibrated",
    "+methods.faulty={name:faulty,_target_:tests.comparison.faulty.FailsInTraining,sweep:{}}",
    "benchmark.batch_sizes=[]",
)
# Activations take more memory than the weights.
DEEP = ("backbone.num_layers=64", "backbone.hidden_size=256")

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


def wait_for(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


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


def test_a_worker_trains_while_another_makes_the_full_model(alone: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path, *SETTINGS, "tracking.uri=null")
    prepared = prepare(config)
    session = Session(prepared, RunFolder(tmp_path / "run"))
    models, claims = ModelStore(session), Claims(tmp_path / "run" / "claims", "run")
    specs = [(spec, case.entry.seed) for case in prepared.cases for spec in case.candidates]
    needed = models.trainings_left(specs)
    assert len(needed) > 2
    with claims.attempt([prepared.cases[0].entry.key]):
        # One training fails.
        Comparison(session).work(claims, lambda: len(models.trainings_left(specs)) > 1)
    assert not list((tmp_path / "run").glob("settings/*"))
    assert compare(config, tmp_path / "run") is False
    assert compared(tmp_path) == compared(alone)


def test_a_process_that_starts_in_the_folder_joins_the_run(alone: Path, tmp_path: Path) -> None:
    config, log = small_config(tmp_path, *SETTINGS), tmp_path / "output.txt"
    session = open_session(prepare(config), tmp_path / "run", grows=True)
    with session.run("parent", "compare", nested=False) as parent, helped_by(session, parent, workers=1) as claims:
        other = Child(lambda: compare(config, tmp_path / "run"), log)
        expected = {path.name for path in (alone / "run" / "settings").glob("*.json")}
        wait_for(lambda: {path.name for path in (tmp_path / "run" / "settings").glob("*.json")} == expected, log)
        wait_for(lambda: claims.failed("faulty-always-seed-0") == "RuntimeError: no loss today", log)
        assert f"waiting for the run folder {tmp_path / 'run'}: process {os.getpid()} on " in log.read_text()
        assert "joining it: this process makes settings of the same run" in log.read_text()
        assert other.poll() is None
    # The other process then becomes the one that has the folder, and completes the run.
    session.folder.release()
    assert other.wait() == 0, log.read_text()
    assert compared(tmp_path) == compared(alone)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert {run.info.run_name for run in children} >= {"base", "full 1x", "skipdecode 2x", "faulty always"}


def test_a_process_with_another_configuration_does_not_join(tmp_path: Path) -> None:
    session = open_session(prepare(small_config(tmp_path, "tracking.uri=null")), tmp_path / "run")
    with helped_by(session, "", workers=1):
        other = prepare(small_config(tmp_path, "tracking.uri=null", "speedups=[1.5]"))
        assert in_child(lambda: join(Session(other, RunFolder(tmp_path / "run")))) == 0
    assert not list((tmp_path / "run").glob("settings/*"))


@pytest.mark.parametrize(("seen", "expected"), [(None, "1"), ("5,7", "7")])
def test_each_worker_sees_one_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str | None, expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    told = tmp_path / "seen.txt"
    command = f"echo $CUDA_VISIBLE_DEVICES > {told}"
    process = multiprocessing.get_context("spawn").Process(target=os.system, args=(command,))
    start(process, 1)
    process.join()
    assert told.read_text().strip() == expected
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


@pytest.mark.parametrize(
    ("overrides", "cores", "gibibytes", "expected"),
    [
        ([], 4, 64, 4),
        ([], 4, 5, 2),
        ([], 4, 1, 1),
        ([*DEEP, "trainer.batch_size=16"], 4, 8, 1),
        ([*DEEP, "trainer.batch_size=16", "trainer.accumulate=16"], 4, 8, 2),
        (["threads=2"], 4, 64, 2),
        (["workers=3"], 1, 1, 3),
        (["trainer.devices=2"], 4, 64, 1),
    ],
)
def test_the_number_of_workers_is_the_configured_one_or_fits_the_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    cores: int,
    gibibytes: int,
    expected: int,
) -> None:
    monkeypatch.setattr("skiplab.comparison.worker_count.physical_cores", lambda: cores)
    monkeypatch.setattr("skiplab.comparison.worker_count.available_memory", lambda: gibibytes * 2**30)
    config = small_config(tmp_path, "workers=null", *overrides)
    assert worker_count(prepare(config, allow_distributed=True)) == expected


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
