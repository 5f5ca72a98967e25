"""The command line from a user's point of view."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import mlflow
import pytest

from skiplab.run import experiments
from tests.comparison.small import SIZE, SMALL_TASK
from tests.faults.processes import KILLED, Child
from tests.forked_run import output, start
from tests.store import ready_store

COMMAND = [sys.executable, "-m", "skiplab.run"]
COMPARISON = "experiment=compare_calm"
LEFT_OUT = [f"~methods.{name}" for name in ("multi_layer", "calm", "skipdecode_calibrated", "calm_calibrated")]
COMPARE = [COMPARISON, "hydra.run.dir=outputs/compare_calm", *SIZE, *SMALL_TASK, *LEFT_OUT]


def environment(home: Path) -> dict[str, str]:
    root = Path(__file__).parents[1]
    return os.environ | {"SKIPLAB_CACHE": f"{home}/cache", "PYTHONPATH": str(root), "COLUMNS": "100"}


def call(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)


def wait_for(folder: Path, pattern: str, process: Child, *, count: int = 1) -> None:
    """Wait until so many folders have files of a pattern."""
    deadline = time.monotonic() + 120
    while len({path.parent for path in folder.glob(pattern)}) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_arguments_the_experiments_are_listed(tmp_path: Path) -> None:
    done = call(tmp_path, *COMMAND)
    assert done.returncode == 0
    for name, description in experiments().items():
        assert f"{name}  " in done.stdout
        assert description in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=compare_clam"], "error: experiment=compare_clam is unknown; did you mean compare_calm?"),
        ([COMPARISON, "trainer.max_epoch=2"], "error: trainer.max_epoch is not in this configuration; did you mean"),
        (
            [COMPARISON, "benchmark={round:3}"],
            "error: benchmark is not in this configuration with all these entries. It has batch_sizes, prompts, ",
        ),
        (
            ["smok"],
            "overrides such as experiment=NAME; did you mean experiment=smoke?",
        ),
        (["lst"], "did you mean list?"),
        (["list", "metric"], "error: there is no list of metric; did you mean metrics?"),
        ([COMPARISON, "threads=0"], "error: threads must be at least 1, got 0"),
        ([COMPARISON, "hydra.run.dir=/proc/none"], "error: /proc/none: No such file or directory"),
        (["data=restaurants"], "experiment=NAME"),
    ],
)
def test_a_bad_command_gives_one_message_and_writes_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = call(tmp_path, *COMMAND, *arguments)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if "experiment=NAME" not in message:
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "mlflow.db").exists()
    assert not list(tmp_path.glob("outputs/*/*"))


def test_an_unexpected_error_gives_one_line_and_a_file_with_its_traceback(tmp_path: Path) -> None:
    assert start(tmp_path, COMPARISON, "job=json.loads").wait() == 1
    (line,) = output(tmp_path).splitlines()
    (log,) = (tmp_path / "outputs" / "compare_calm+job-json.loads").glob("error-*.log")
    assert line.startswith("error: unexpected TypeError: ")
    assert f"its traceback is in {log}: please report it" in line
    assert "Traceback" in log.read_text()


def test_the_console_script_lists_completes_and_finds_packages_of_the_working_directory(tmp_path: Path) -> None:
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["skiplab"].partition(":")
    script = tmp_path / "bin" / "skiplab"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
    script.chmod(0o755)
    assert "  opt_tiny " in call(tmp_path, str(script), "list", "backbones").stdout

    installed = call(tmp_path, str(script), "-sc", "install=bash").stdout
    assert installed.endswith("hydra_bash_completion skiplab\n")
    complete = f"{installed}\nCOMP_WORDS=(); COMP_CWORD=1; COMP_LINE='skiplab experiment=smo'; hydra_bash_completion"
    path = f"{script.parent}:{os.environ['PATH']}"
    done = call(tmp_path, "env", f"PATH={path}", "bash", "-c", f"{complete}; echo ${{COMPREPLY[@]}}")
    assert done.stdout.split() == ["experiment=smoke"], done.stderr

    (tmp_path / "mine.py").write_text("raise ValueError('mine was found')\n")
    assert "mine was found" in call(tmp_path, str(script), COMPARISON, "job=mine.job").stderr


def test_a_killed_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "compare_calm"
    process = start(tmp_path, *COMPARE)
    wait_for(folder, "settings/skipdecode-1.5x-seed-0.json", process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == KILLED
    finished = {path: path.stat().st_mtime_ns for path in (folder / "settings").iterdir()}
    assert finished
    assert json.loads((folder / "results.json").read_text())["rows"]

    assert start(tmp_path, *COMPARE).wait() == 0, output(tmp_path)
    assert "skipdecode 1.5x: already finished" in output(tmp_path)
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 5
    statuses = [run.info.status for run in stored_runs(tmp_path)]
    assert statuses == ["FINISHED"] * len(statuses)


def test_an_interrupted_run_is_marked_in_its_store(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "compare_calm"
    ready_store(tmp_path)
    process = start(tmp_path, *COMPARE, "trainer.max_epochs=200", "checkpoint_every=0")
    wait_for(tmp_path, "cache/method-*.training/step-*.ckpt", process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, output(tmp_path)
    assert "interrupted; run the same command again to resume" in output(tmp_path)
    assert "Traceback" not in output(tmp_path)
    statuses = {run.info.run_name: run.info.status for run in stored_runs(tmp_path)}
    assert statuses["full 1x"] == "FINISHED"
    assert statuses["full 1x fine-tuned"] == statuses["compare_calm"] == "KILLED"
    assert json.loads((folder / "results.json").read_text())["rows"][0]["method"] == "full"


def test_an_interrupted_run_ends_its_workers(tmp_path: Path) -> None:
    ready_store(tmp_path)
    process = start(tmp_path, *COMPARE, "workers=2", "trainer.max_epochs=200", "checkpoint_every=0")
    wait_for(tmp_path, "cache/method-*.training/step-*.ckpt", process, count=2)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, output(tmp_path)
    assert "Traceback" not in output(tmp_path)
    statuses = sorted((run.info.status, run.info.run_name) for run in stored_runs(tmp_path))
    assert [status for status, _ in statuses] == ["FINISHED"] * 2 + ["KILLED"] * 3, statuses


def stored_runs(home: Path) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("compare_calm")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_simultaneous_runs_share_folder_cache_and_store_without_loss(tmp_path: Path) -> None:
    small = [*COMPARE, "method=full", "benchmark.batch_sizes=[]", "methods={}", "method.sweep.fine_tune=[false]"]
    small = [one for one in small if one not in LEFT_OUT]
    folders = [f"hydra.run.dir={tmp_path}/{name}" for name in ("one", "one", "other")]
    processes = [start(tmp_path, *small, folder) for folder in folders]
    assert [process.wait() for process in processes] == [0, 0, 0], output(tmp_path)
    assert "already finished" in output(tmp_path)
    assert "is lost" not in output(tmp_path)
    for name in ("one", "other"):
        assert [row["setting"] for row in json.loads((tmp_path / name / "results.json").read_text())["rows"]] == ["1x"]
    assert len(list((tmp_path / "cache").glob("base-*/model.safetensors"))) == 1
    # The second run in the folder waits and uses the first one's results; only one run trains the base.
    finished = sorted(run.info.run_name for run in stored_runs(tmp_path) if run.info.status == "FINISHED")
    assert finished == sorted(["base", "one", "other", *2 * ["full 1x"]])
