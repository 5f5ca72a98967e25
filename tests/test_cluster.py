"""Jobs of a cluster's scheduler that share a comparison."""

import json
import os
import sys
from pathlib import Path

import pytest
import submitit

from tests.comparison.small import SIZE, SMALL_TASK
from tests.store import ready_store

METHODS = ("~methods.multi_layer", "~methods.calm", "~methods.skipdecode_calibrated", "~methods.calm_calibrated")


def test_two_jobs_make_one_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "skiplab.run", "experiment=compare_calm", *SIZE, *SMALL_TASK, *METHODS,
        f"hydra.run.dir={run}", f"cache_dir={tmp_path}/cache", f"tracking.uri={ready_store(tmp_path)}",
        "trainer.max_epochs=20", "benchmark.batch_sizes=[]",
    ]  # fmt: skip
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=5)
    jobs = [executor.submit(submitit.helpers.CommandFunction(command, cwd=os.fspath(tmp_path))) for _ in range(2)]
    printed = "".join(str(job.result()) for job in jobs)
    assert printed.count("joining it") == 1, printed
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"full", "skipdecode"}
    assert not any("error" in row for row in rows)
