"""Predicted speeds of larger shapes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig

from skiplab.benchmarking.cost_model import CostModel, Evidence, Observation
from skiplab.benchmarking.roofline import Ceilings, Footprint
from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.capacity import capacity
from skiplab.utils.files import save_json
from tests.composed import composed
from tests.store import ready_store


def config(folder: Path, *overrides: str) -> DictConfig:
    store = (f"tracking.uri={ready_store(folder)}", "tracking.experiment=capacity")
    run = f"capacity.run={folder}/measured"
    return composed("experiment=capacity", run, *store, *overrides)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """The files of a throughput run on a machine with 1 TB/s of bandwidth and infinitely fast products."""
    constants = {"per_step": 0.0, "per_layer": 0.0, "bandwidth": 1e12, "flops": 1e30, "row_bandwidth": 1e12}
    errors = {"one": -0.04, "other": 0.01, "third": 0.07}
    save_json(tmp_path / "measured/cost_model.json", {"bfloat16": {"constants": constants, "held_out_errors": errors}})
    save_json(tmp_path / "measured/results.json", {"environment": {"cpu": "c", "threads": 1, "gpu": None}})
    return tmp_path


def test_a_bandwidth_bound_machine_reaches_the_bytes_speedup(measured: Path, capsys: pytest.CaptureFixture) -> None:
    assert capacity(config(measured, "capacity.batch_sizes=[1]"), measured / "run")
    rows = json.loads((measured / "run/results.json").read_text())["rows"]
    assert {row["backbone"] for row in rows} == {"opt_1_3b", "opt_6_7b", "opt_30b", "opt_175b"}
    for row in rows:
        assert row["predicted_speedup"] == pytest.approx(row["bytes_speedup"])
        assert "decode_speedup" not in row
    full = {row["backbone"]: row["predicted_ms_per_step"] for row in rows if row["method"] == "full"}
    # 6.7 billion weights of two bytes, without positions and the embedding that is tied to the head, plus the cache.
    assert full["opt_6_7b"] == pytest.approx(2 * 6.65, rel=0.02)
    assert full["opt_175b"] == pytest.approx(2 * 174.6, rel=0.02)
    assert "on held-out settings: median 4.0%, largest 7.0%" in capsys.readouterr().out


def test_without_a_cost_model_the_message_says_what_to_run(measured: Path) -> None:
    for override in ("capacity.run=/nowhere", "capacity.dtype=float32"):
        with pytest.raises(ConfigurationError, match=r"run experiment=throughput and give its folder as capacity.run"):
            capacity(config(measured, override), measured / "run")


def test_several_runs_are_fitted_together(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    true = CostModel(1e-4, 1e-5, bandwidth=2e12, flops=5e14, row_bandwidth=2.5e12, overlapped=True)
    ceilings = Ceilings(bandwidth=3e12, flops=5e14)
    for name, width in (("small", 1024), ("large", 4096)):
        size = Footprint(
            num_layers=24, layer_bytes=24 * width**2, head_bytes=10**5 * width, layer_weights=12 * width**2,
            head_weights=50_000 * width, kv_bytes=4 * width, kv_width=2 * width,
        )  # fmt: skip
        observations = {
            f"{depth} {rows}": Observation([depth] * 8, rows, 64, size, 0.0)
            for depth in (24, 12, 6) for rows in (1, 16)
        }  # fmt: skip
        measured = {key: replace(one, seconds=true.seconds(one.steps, size)) for key, one in observations.items()}
        evidence = Evidence.gather(measured, {"held out": measured["24 1"]}, ceilings, overlapped=True)
        save_json(tmp_path / name / "cost_model.json", {"bfloat16": evidence.plain()})
        environment = {"cpu": "c", "threads": 1, "gpu": "g"}
        save_json(tmp_path / name / "results.json", {"environment": environment})
    runs = f"capacity.run=[{tmp_path}/small,{tmp_path}/large]"
    assert capacity(config(tmp_path, runs, "capacity.batch_sizes=[16]"), tmp_path / "run")
    written = json.loads((tmp_path / "run/results.json").read_text())
    assert written["environment"]["predicted_from"]["constants"]["bandwidth"] == pytest.approx(2e12, rel=0.05)
    assert [run["folder"] for run in written["environment"]["predicted_from"]["runs"]] == [
        f"{tmp_path}/small", f"{tmp_path}/large"
    ]  # fmt: skip
    assert "predictions for g, bfloat16" in capsys.readouterr().out
    save_json(tmp_path / "large/results.json", {"environment": {"cpu": "c", "threads": 1, "gpu": "h"}})
    with pytest.raises(ConfigurationError, match="predicts for one machine"):
        capacity(config(tmp_path, runs), tmp_path / "run2")


def test_a_run_without_stored_settings_must_be_given_alone(measured: Path) -> None:
    twice = f"capacity.run=[{measured}/measured,{measured}/measured]"
    with pytest.raises(ConfigurationError, match="has stored none; give this folder alone"):
        capacity(config(measured, twice), measured / "run")
