"""An MLflow server that is killed in the middle of a comparison."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import alembic.op
import mlflow
import pytest

from skiplab.methods.base import TrainedModule
from skiplab.reporting.mlflow_tracker import MLflowTracker
from tests.faults.comparisons import command, results, statuses, tracked
from tests.faults.processes import KILLED, in_child, kills_at
from tests.forked_run import output
from tests.store import ready_store


@contextmanager
def server(home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`mlflow server` on loopback over a sqlite store."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{home}/server.db", "--artifacts-destination", str(home / "artifacts"),
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "server.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield process
    finally:
        kill(process.pid)
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(address)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_run_continues_without_its_server_and_writes_missing_data_later(undisturbed: Path, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"

    with server(tmp_path, port) as process:

        def dies_in_training() -> None:
            step, calls = TrainedModule.training_step, []

            def counted(*args):
                calls.append(args)
                # During the second training, SkipDecode's.
                if len(calls) == 6:
                    kill(process.pid)
                return step(*args)

            TrainedModule.training_step = counted  # type: ignore[method-assign]

        began = time.monotonic()
        assert command(tmp_path, f"tracking.uri={uri}", fault=dies_in_training) == 0, output(tmp_path)
        seconds = time.monotonic() - began
    told = "".join(output(tmp_path).split())
    for words in (f"the tracking store {uri} is lost", "Run the same command again later", "not tracked"):
        assert words.replace(" ", "") in told
    assert results(tmp_path) == results(undisturbed)
    assert seconds < 120

    with server(tmp_path, port):
        assert command(tmp_path, f"tracking.uri={uri}") == 0, output(tmp_path)
        assert "[2/4] skipdecode 2x: already finished" in output(tmp_path)
        assert statuses(uri) == statuses(f"sqlite:///{undisturbed}/mlflow.db")
        there = {run.info.run_name: run for run in tracked(uri)}
        expected = {run.info.run_name: run for run in tracked(f"sqlite:///{undisturbed}/mlflow.db")}
        for name, run in expected.items():
            assert run.data.metrics.keys() <= there[name].data.metrics.keys()
            assert name == "base" or run.data.params.keys() <= there[name].data.params.keys()
        client = mlflow.MlflowClient(uri)
        curve = client.get_metric_history(there["skipdecode 2x"].info.run_id, "train_loss")
        assert sorted({point.step for point in curve}) == [3]
    assert results(tmp_path) == results(undisturbed)


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """A server that answers every request with a status, like an MLflow server after the token has expired."""

    class Refusing(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"token expired")

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as found:
        thread = Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_store_that_starts_to_refuse_counts_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # MLflow changes this variable; setting it here restores it after the test.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    tracker = MLflowTracker.open(ready_store(tmp_path), "test")
    with refusing(status) as uri, tracker.run("work") as run_id:
        mlflow.set_tracking_uri(uri)
        with pytest.warns(
            UserWarning, match=f"the tracking store {uri} is lost: .*same command again later to write what is missing"
        ):
            tracker.log_figures({"bleu": 1.0}, run_id=run_id)
        assert tracker.lost
        tracker.log_params({"is": "not tracked, and no error"})
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")


def test_an_invalid_call_is_still_an_error(tmp_path: Path) -> None:
    tracker = MLflowTracker.open(ready_store(tmp_path), "test")
    with pytest.raises(mlflow.MlflowException, match="Names may only contain"), tracker.run("work"):
        tracker.log_figures({"no name?": 1.0})
    assert tracker.lost is None


def test_a_sqlite_store_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def killed() -> None:
        # In the middle of about forty changes to its tables.
        alembic.op.create_table = kills_at(5, alembic.op.create_table)
        MLflowTracker.open(uri, "test")

    assert in_child(killed) == KILLED
    tracker = MLflowTracker.open(uri, "test")
    with tracker.run("work") as run_id:
        tracker.log_figures({"bleu": 1.0})
    assert mlflow.get_run(run_id).data.metrics == {"bleu": 1}
    assert not list(tmp_path.glob(".mlflow.db.[0-9]*"))


def test_a_full_sqlite_store_counts_as_lost_and_the_work_continues(tmp_path: Path) -> None:
    def work() -> None:
        tracker = MLflowTracker.open(ready_store(tmp_path), "test")
        with tracker.run("work"):
            size = (tmp_path / "mlflow.db-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            figures = {f"figure{number}": 1.0 for number in range(900)}
            with pytest.warns(
                UserWarning, match="the tracking store .* is lost: .*same command again later to write what is missing"
            ):
                tracker.log_figures(figures)
            assert tracker.lost
            tracker.set_note("is not tracked, and no error")

    assert in_child(work, tmp_path / "output.txt") == 0, (tmp_path / "output.txt").read_text()
