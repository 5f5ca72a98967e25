"""The job that profiles a decode step."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.profile import profile
from tests.composed import composed
from tests.store import ready_store

SMALL = ("backbone.num_layers=3", "backbone.hidden_size=16", "backbone.num_heads=2", "backbone.vocab_size=104")


def config(folder: Path, *overrides: str) -> DictConfig:
    store = (f"tracking.uri={ready_store(folder)}", "tracking.experiment=profile")
    lengths = ("throughput.prompt_tokens=6", "throughput.new_tokens=5", "throughput.batch_sizes=[2]")
    return composed("experiment=profile", *SMALL, *lengths, *store, *overrides)


def test_both_paths_are_profiled_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert profile(config(tmp_path, "throughput.dtypes=[float32,int8]"), tmp_path / "run")
    found = json.loads((tmp_path / "run/profile.json").read_text())["profiles"]
    assert [(one["dtype"], one["path"]) for one in found] == [
        ("float32", "reference"),
        ("float32", "fast"),
        ("int8", "reference"),
        ("int8", "fast"),
    ]
    assert all(one["ms_per_step"]["linear layers"] > 0 for one in found)
    assert "attention" in capsys.readouterr().out


def test_impossible_profiles_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown throughput dtypes"):
        profile(config(tmp_path, "throughput.dtypes=[float8]"), tmp_path / "run")
