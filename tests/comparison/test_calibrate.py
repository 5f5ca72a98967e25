"""Calibration inside a comparison."""

import json
from pathlib import Path

import pytest

from skiplab.jobs.compare import compare
from tests.comparison.small import small_config

# Every output that a first exit changes is a loss, so nothing but full depth is certified.
NONE_PASSES = (
    "method=calm_calibrated",
    "method.calibrate.quantile=[0.0]",
    "method.sweep.confidence=[softmax]",
    "methods.full.sweep.fine_tune=[false]",
    "calibration.consistency=exact",
    "calibration.p_value=binomial",
    "calibration.delta=[0.3]",
    "benchmark.batch_sizes=[]",
)


@pytest.mark.parametrize("reference", ["base", "own"])
def test_where_nothing_passes_the_answer_is_full_depth(tmp_path: Path, reference: str) -> None:
    config = small_config(tmp_path, *NONE_PASSES, f"calibration.reference={reference}")
    assert compare(config, tmp_path / "run")
    full, calm = json.loads((tmp_path / "run/results.json").read_text())["rows"]
    assert (full["method"], calm["method"]) == ("full", "calm")
    assert calm["calibrated"] == "full depth"
    assert calm["layer_speedup"] == 1
    assert "calibration_loss" not in calm
    # The base at full depth is the full model; the exits' own weights at full depth are another model.
    assert (calm["agreement"] == 1) == (reference == "base")
    (verdict,) = (tmp_path / "run/calibration").glob("calibration-*.json")
    found = json.loads(verdict.read_text())
    assert found["chosen"] == "full depth"
    assert found["tested"][0]["p_value"] > 0.05
    assert found["items"] == 10
