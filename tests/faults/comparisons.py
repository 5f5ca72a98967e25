"""The command of a small `compare_calm`, run in a forked process into which a test can inject a fault."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run

from skiplab.reporting.vocabulary import FIGURES
from tests.forked_run import start
from tests.store import ready_store

SMALL = (
    "experiment=compare_calm",
    "hydra.run.dir=outputs/compare_calm",
    "backbone.num_layers=4",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "backbone.dropout=0.1",
    "data.train_size=64",
    "data.valid_size=16",
    "data.test_size=16",
    "max_new_tokens=48",
    "trainer.batch_size=16",
    "base.max_epochs=1",
    # So small that outputs stay long.
    "base.learning_rate=1e-5",
    "trainer.learning_rate=1e-4",
    "checkpoint_every=0",
    "workers=1",
    "speedups=[2]",
    "methods.full.sweep.fine_tune=[false]",
    "~methods.multi_layer",
    "~methods.calm",
    "~methods.skipdecode_calibrated",
    "methods.calm_calibrated.sweep.confidence=[softmax]",
    "methods.calm_calibrated.calibrate.quantile=[1.0,0.5]",
    "calibration.delta=[0.3]",
    "calibration.epsilon=0.9",
    "benchmark.rounds=2",
    "benchmark.batch_sizes=[4]",
    "benchmark.warmup=0",
    "benchmark.prompts=4",
)
_TIMED = (
    "_ms",
    "_per_s",
    "decode_speedup",
    "prefill_speedup",
    "end_to_end_speedup",
    "ms_per_token",
    "ms_per_step",
    "peak_memory_bytes",
    "train_cpu_s",
)


def command(home: Path, *overrides: str, fault: Callable[[], object] = lambda: None) -> int:
    """Run a comparison's command in a folder, where the store already exists; returns the exit code, -N for signal N.

    Args:
        fault: called in the process before the command starts.
    """
    ready_store(home)
    return start(home, *SMALL, *overrides, fault=fault).wait()


def run_dir(home: Path) -> Path:
    return home / "outputs" / "compare_calm"


def results(home: Path, folder: Path | None = None) -> dict[str, Any]:
    """`results.json` of the run folder, without environment and times, which may differ between two runs."""
    found = json.loads(((folder or run_dir(home)) / "results.json").read_text())
    del found["environment"]
    for part in ("rows", "summary"):
        found[part] = [_without_times(row) for row in found.get(part, ())]
    return found


def check_whole(folder: Path) -> None:
    """Check that all JSON files in a folder can be read."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


def tracked(uri: str) -> list[Run]:
    """The runs in a store."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("compare_calm")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def statuses(uri: str) -> list[tuple[str, str]]:
    return sorted((str(run.info.run_name), run.info.status) for run in tracked(uri))


def _without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not any(word in key for word in _TIMED)}


assert {"decode_tokens_per_s", "prefill_ms", "decode_speedup"} <= FIGURES.row_keys().keys()
