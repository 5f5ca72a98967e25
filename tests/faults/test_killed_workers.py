"""A comparison by two processes, whose worker and first process are killed."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from skiplab.comparison.claims import Claims
from skiplab.comparison.session import Session
from skiplab.comparison.workers import helped_by
from skiplab.jobs import compare as job
from tests.faults.comparisons import check_whole, command, results, run_dir, statuses
from tests.faults.processes import KILLED, at_file, kill_self
from tests.forked_run import output


def once_made(count: int, then: Callable[[], object]) -> Callable[[], None]:
    """A fault in the first process, which makes no setting itself before its worker has made so many."""

    @contextmanager
    def patched(session: Session, parent: str, workers: int) -> Iterator[Claims]:
        deadline = time.monotonic() + 120
        with helped_by(session, parent, workers) as claims:
            while len(list(session.folder.path.glob("settings/*.json"))) < count:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            then()
            yield claims

    return lambda: setattr(job, "helped_by", patched)


def kill_workers() -> None:
    for process in psutil.Process().children():
        process.send_signal(signal.SIGKILL)
        # Its locks are free only then.
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


def made(home: Path) -> dict[str, int]:
    """When each setting's file was written."""
    return {path.name: path.stat().st_mtime_ns for path in (run_dir(home) / "settings").glob("*.json")}


def test_whichever_process_is_killed_the_results_are_the_same_and_nothing_is_made_twice(
    undisturbed: Path, tmp_path: Path
) -> None:
    def killed(count: int, then: Callable[[], object], later: Callable[[], object] = lambda: None) -> dict[str, int]:
        def fault() -> None:
            once_made(count, then)()
            later()

        assert command(tmp_path, "workers=2", fault=fault) == KILLED, output(tmp_path)
        # A worker whose parent has ended finishes its setting.
        workers = [one for one in psutil.process_iter(["environ"]) if str(tmp_path) in str(one.info["environ"])]
        assert not psutil.wait_procs(workers, timeout=60)[1]
        check_whole(tmp_path)
        return made(tmp_path)

    # The first process goes on without its worker, until it is killed after its next setting.
    first = killed(1, kill_workers, at_file("settings/*.json", after=True))
    second = killed(len(first) + 1, kill_self)
    assert first.items() <= second.items()
    assert command(tmp_path) == 0, output(tmp_path)
    assert second.items() <= made(tmp_path).items()
    assert results(tmp_path) == results(undisturbed)
    assert statuses(f"sqlite:///{tmp_path}/mlflow.db") == statuses(f"sqlite:///{undisturbed}/mlflow.db")
