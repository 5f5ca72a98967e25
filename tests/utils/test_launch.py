"""One command that starts several processes: their number, their failures, their results."""

import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.jobs.compare import compare
from skiplab.utils import launch
from tests.comparison.faulty import FailsInTraining
from tests.comparison.small import SIZE, SMALL_TASK, small_config
from tests.faults.processes import in_child
from tests.forked_run import as_torchrun, output, start
from tests.store import ready_store
from tests.test_run import stored_runs, wait_for

LEFT_OUT = [f"~methods.{name}" for name in ("multi_layer", "calm", "skipdecode_calibrated", "calm_calibrated")]
FAULTY = f"+methods.faulty={{name:faulty,_target_:{FailsInTraining.__module__}.FailsInTraining,sweep:{{}}}}"
JOB = [*LEFT_OUT, FAULTY, "speedups=[1.5]", "benchmark.batch_sizes=[2]", "decode_batch_size=3"]


def test_the_number_of_processes_must_match_the_configuration() -> None:
    launch.check(None, devices=2, nodes=1)
    launch.check(4, devices=2, nodes=2)
    with pytest.raises(launch.LaunchError, match=r"2 processes were started, and trainer.devices=1 times"):
        launch.check(2, devices=1, nodes=1)
    with pytest.raises(launch.LaunchError, match=r"torchrun --nnodes 2 --nproc-per-node 8 .*docs/scale.md"):
        launch.check(None, devices=8, nodes=2)


def test_under_slurm_tasks_of_a_step_are_ranks_and_the_batch_script_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"NTASKS": "4", "NTASKS_PER_NODE": "2", "PROCID": "3", "LOCALID": "1", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    assert launch.launcher() is None
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    found = launch.launcher()
    assert found is not None
    assert (found.global_rank(), found.local_rank(), found.world_size()) == (3, 1, 4)


def test_a_job_for_several_processes_is_not_run_by_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ask for 2 processes, and 1 run; start it with python -m skiplab"):
        compare(small_config(tmp_path, "trainer=ddp"), tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"runs in one process, got trainer.devices=2 .* as in trainer=cpu"):
        prepare(small_config(tmp_path, "trainer=ddp"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("kind", "code"), [("experiments", 0), ("metric", 1)])
def test_the_exit_code_is_that_of_the_processes(monkeypatch: pytest.MonkeyPatch, kind: str, code: int) -> None:
    monkeypatch.setattr(sys, "argv", ["skiplab", "list", kind])
    assert in_child(lambda: os._exit(launch.start(2))) == code


def test_two_processes_give_the_results_of_one_even_if_one_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "compare_calm"
    command = ["experiment=compare_calm", "hydra.run.dir=outputs/compare_calm", *SIZE, *SMALL_TASK, *JOB, "trainer=ddp"]
    ready_store(tmp_path)
    # This process starts the ranks as child processes.
    process = start(tmp_path, *command)
    wait_for(folder, "settings/full-1x-seed-0.json", process)
    # Only direct children, because their own children inherit the variables.
    ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
    ranks["1"].send_signal(signal.SIGKILL)
    assert process.wait() == 128 + signal.SIGKILL, output(tmp_path)
    told = "process 1 was killed by signal 9, and the others were stopped; run the same command again to resume"
    assert told in output(tmp_path)
    assert not ranks["0"].is_running()

    # Resumed by ranks that are forked, to save the time of imports.
    (tmp_path / "output.txt").unlink()
    forked = [start(tmp_path, *command, fault=partial(os.environ.update, rank)) for rank in as_torchrun(2)]
    assert [process.wait() for process in forked] == [1, 0], output(tmp_path)
    assert output(tmp_path).count("full 1x: already finished") == 1
    assert output(tmp_path).count("failed faulty always: RuntimeError: no loss today") == 1
    assert "Traceback" not in output(tmp_path)
    statuses = {run.info.run_name: run.info.status for run in stored_runs(tmp_path)}
    assert statuses.pop("faulty always") == "FAILED"
    assert set(statuses.values()) == {"FINISHED"}

    results = json.loads((folder / "results.json").read_text())
    assert results["environment"]["processes"] == 2
    assert {row.get("error") for row in results["rows"]} == {None, "RuntimeError: no loss today"}
    assert all("decode_speedup" in row for row in results["rows"] if "error" not in row)
    two = {path.name: json.loads(path.read_text()) for path in (folder / "settings").iterdir()}
    assert len(two) == 4

    # The same weights, decoded and scored by one process.
    shutil.rmtree(folder / "settings")
    assert not compare(small_config(tmp_path, *JOB), folder)
    assert two == {path.name: json.loads(path.read_text()) for path in (folder / "settings").iterdir()}
