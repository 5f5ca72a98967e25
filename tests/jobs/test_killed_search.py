"""A search whose processes are killed."""

import os
import signal
import time
from pathlib import Path

from optuna.trial import TrialState

from skiplab.jobs.search import search
from skiplab.search.study import UNNAMED, WORKER
from tests.comparison.small import SIZE, SMALL_TASK, small_config
from tests.forked_run import output, start
from tests.jobs.small_search import SHORT, SPACE, trials
from tests.store import ready_store


def arguments(home: Path, *overrides: str) -> tuple[str, ...]:
    stores = (f"search.storage={home}/journal.log", f"search.artifacts={home}/artifacts", "benchmark.batch_sizes=[]")
    return (
        "experiment=search_schedule",
        "hydra.run.dir=outputs/search_schedule",
        *SIZE,
        *SMALL_TASK,
        *SPACE,
        *SHORT,
        *stores,
        *overrides,
    )


def test_killing_a_worker_and_the_parent_loses_no_finished_trial(tmp_path: Path) -> None:
    ready_store(tmp_path)
    process = start(tmp_path, *arguments(tmp_path, "workers=2", "search.trials=900", "search.baselines=[]"))
    folder = tmp_path / "outputs" / "search_schedule" / "workers"
    deadline = time.monotonic() + 200
    while not ((tmp_path / "journal.log").exists() and len(finished_by(tmp_path)) == 2):
        assert process.poll() is None, output(tmp_path)
        assert time.monotonic() < deadline
        time.sleep(0.2)
    victim, other = (int(path.stem.split("-")[-2]) for path in sorted(folder.glob("*.lock")))
    os.kill(victim, signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while alive(other):
        assert time.monotonic() < deadline, "a worker whose parent has ended must end after its trial"
        time.sleep(0.1)
    before = trials(tmp_path)
    done = {trial.number: trial for trial in before if trial.state.is_finished()}
    assert any(trial.state == TrialState.COMPLETE for trial in done.values())
    if any(trial.state == TrialState.RUNNING and WORKER not in trial.user_attrs for trial in before):
        time.sleep(UNNAMED.total_seconds())

    again = small_config(
        tmp_path, *SPACE, *SHORT, f"search.storage={tmp_path}/journal.log", f"search.artifacts={tmp_path}/artifacts",
        "benchmark.batch_sizes=[]", f"search.trials={len(done) + 3}", "search.baselines=[]",
        experiment="search_schedule",
    )  # fmt: skip
    assert search(again, tmp_path / "outputs" / "search_schedule") is True
    after = trials(tmp_path)
    assert {number: after[number] for number in done} == done
    lost = [trial.number for trial in before if trial.state == TrialState.RUNNING]
    assert all(after[number].state == TrialState.FAIL for number in lost)
    retried = {trial.system_attrs["failed_trial"]: trial for trial in after if "failed_trial" in trial.system_attrs}
    assert sorted(retried) == lost
    for number in lost:
        assert before[number].params.items() <= retried[number].params.items()
        assert retried[number].state.is_finished()


def finished_by(home: Path) -> set[str]:
    """Workers that have finished a trial."""
    try:
        found = trials(home)
    except KeyError:
        return set()
    return {trial.user_attrs["worker"] for trial in found if trial.state == TrialState.COMPLETE}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie process has ended.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
