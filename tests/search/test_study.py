"""Studies on every storage: what is refused, which workers are alive, which trials are retried."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

import skiplab.search.study
from skiplab.search.study import (
    WORKER,
    Workers,
    finished,
    new_pruner,
    new_sampler,
    open_storage,
    open_study,
    retry_lost,
)

BOTH = {"loss": "minimize", "layer_speedup": "maximize"}
_HOLD = """
import sys, time
from pathlib import Path
from skiplab.search.study import *
study = open_study(open_storage(sys.argv[1]), "s", directions={"loss": "minimize"}, identity={})
with Workers(Path(sys.argv[2])).alive() as name:
    trial = study.ask()
    trial.set_user_attr(WORKER, name)
    trial.suggest_float("x", 0, 1)
    print(trial.number, flush=True)
    time.sleep(600)
"""


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs: on the path, or where Debian installs them."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).parent
    kept = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return kept[-1].parent if kept else None


_opened: list[BaseStorage] = []


def storage_at(place: str, **options: int) -> BaseStorage:
    _opened.append(open_storage(place, **options))
    return _opened[-1]


@pytest.fixture(autouse=True)
def closed_storages(request: pytest.FixtureRequest) -> Iterator[None]:
    if "server_place" in request.fixturenames:
        request.getfixturevalue("server_place")
    yield
    while _opened:
        if isinstance(storage := _opened.pop(), RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def server_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
    elif request.param == "journal":
        yield f"{tmp_path}/journal.log"
    else:
        yield from postgresql(tmp_path)


@pytest.fixture
def place(server_place: str) -> str:
    return server_place


def postgresql(home: Path) -> Iterator[str]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on the path")
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    # The server refuses to run as root.
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    if as_user:
        for parent in [home, *home.parents][:4]:
            parent.chmod(0o755)
        home.chmod(0o777)
    call = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*as_user, programs / "initdb", "-D", home / "pg", "-A", "trust", "-U", "me"], **call)
    options = f"-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off"
    server = [*as_user, programs / "pg_ctl", "-D", home / "pg", "-w"]
    subprocess.run([*server, "-o", options, "start"], **call)
    try:
        yield f"postgresql+psycopg://me@/postgres?host={home}"
    finally:
        subprocess.run([*server, "-m", "immediate", "stop"], **call)


def study_at(place: str, **identity: object) -> optuna.Study:
    return open_study(storage_at(place), "s", directions={"loss": "minimize"}, identity=identity)


def test_a_study_is_resumed_by_its_name(place: str) -> None:
    study = study_at(place, space=[1, 2])
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    again = study_at(place, space=[1, 2])
    assert [trial.values for trial in again.trials] == [trial.values for trial in study.trials]
    assert again.metric_names == ["loss"]
    with pytest.raises(
        ValueError, match=r"study 's' in this storage belongs to another search \(it differs in space\)"
    ):
        study_at(place, space=[1, 3])
    with pytest.raises(ValueError, match=r"differs in objectives.*search.study=NAME"):
        open_study(storage_at(place), "s", directions=BOTH, identity={"space": [1, 2]})
    assert len(study_at(place, space=[1, 2]).trials) == 3


def test_the_trial_of_a_killed_worker_is_retried(place: str, tmp_path: Path) -> None:
    study = study_at(place)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    workers = Workers(tmp_path / "workers")
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, place, tmp_path / "workers"],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "2\n"
    (running,) = study.get_trials(states=(TrialState.RUNNING,))
    assert not workers.dead(running.user_attrs[WORKER])
    assert retry_lost(study, workers) == []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert workers.dead(running.user_attrs[WORKER])
    assert [trial.number for trial in retry_lost(study, workers)] == [2]
    assert retry_lost(study, workers) == []
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL, TrialState.WAITING]
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert study.trials[3].params == running.params


def test_a_database_gives_up_a_worker_without_a_heartbeat(tmp_path: Path) -> None:
    storage = storage_at(f"sqlite:///{tmp_path}/study.db", heartbeat=1)
    study = open_study(storage, "s", directions={"loss": "minimize"}, identity={})
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        lost = study.ask()
    lost.suggest_float("x", 0, 1)
    storage.record_heartbeat(lost._trial_id)  # type: ignore[attr-defined]
    time.sleep(4.1)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].params == lost.params


def test_workers_of_other_folders_do_not_count_as_dead(tmp_path: Path) -> None:
    with Workers(tmp_path / "theirs").alive() as name:
        pass
    assert not Workers(tmp_path / "ours").dead(name)


def test_trials_that_break_a_constraint_do_not_count_as_finished(tmp_path: Path) -> None:
    study = study_at(f"{tmp_path}/journal.log")

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.set_constraint("small", x - 0.5)
        return x

    for x in (0.2, 0.9):
        study.enqueue_trial({"x": x})
    study.optimize(objective, n_trials=2)
    assert [trial.number for trial in finished(study)] == [0]


@pytest.mark.parametrize("place", ["sqlite:////proc/nowhere/study.db", "/proc/nowhere/journal.log", "nosuch://x/y"])
def test_an_unreachable_storage_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"search.storage=.* cannot be used: .*; give sqlite:///FILE"):
        open_storage(place)


def test_samplers_and_pruners_by_name() -> None:
    for name in ("tpe", "nsga2", "gp", "random"):
        assert isinstance(new_sampler(name, 0), optuna.samplers.BaseSampler)
    for pruner in (None, "median", "hyperband"):
        assert isinstance(new_pruner(pruner), optuna.pruners.BasePruner)
    with pytest.raises(ValueError, match="unknown sampler 'cma'; choose one of tpe, nsga2, gp, random"):
        new_sampler("cma", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown pruner 'asha'; choose one of median, hyperband"):
        new_pruner("asha")  # type: ignore[arg-type]


def test_a_trial_without_a_workers_name_is_lost_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_at(f"{tmp_path}/journal.log")
    unnamed, workers = study.ask(), Workers(tmp_path / "workers")
    assert retry_lost(study, workers) == []
    monkeypatch.setattr(skiplab.search.study, "UNNAMED", timedelta(0))
    assert [trial.number for trial in retry_lost(study, workers)] == [unnamed.number]
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
