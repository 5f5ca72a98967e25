"""The job that compares training budgets."""

import json
from pathlib import Path

import pytest

from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.training_budget import training_budget
from tests.comparison.small import small_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget")
    overrides = (
        "passes=[1,2]",
        "seeds=[0]",
        "methods.full.sweep.fine_tune=[false]",
        "~methods.calm",
        "benchmark.batch_sizes=[]",
    )
    assert training_budget(small_config(folder, *overrides, experiment="training_budget"), folder / "run")
    return folder / "run"


def rows(run: Path) -> list[dict]:
    return json.loads((run / "results.json").read_text())["rows"]


def test_every_trained_setting_has_its_training_cost(run: Path) -> None:
    trained = [row for row in rows(run) if row["method"] != "full"]
    for row in trained:
        assert f"{row['train_passes']} pass" in row["setting"]
        assert row["train_cpu_s"] > 0
    by_setting = {(row["method"], row["setting"], row["seed"]): row for row in trained}
    once, twice = (by_setting["skipdecode", f"2x {passes}", 0] for passes in ("1 pass", "2 passes"))
    assert twice["train_tokens"] == 2 * once["train_tokens"]
    assert {row["models_per_speed_range"] for row in trained if row["method"] == "skipdecode"} == {2}
    assert {row["models_per_speed_range"] for row in trained if row["method"] == "multi_layer"} == {1}


def test_an_untrained_setting_has_no_cost_and_one_row(run: Path) -> None:
    (full,) = [row for row in rows(run) if row["method"] == "full"]
    assert full["models_per_speed_range"] == 0
    assert "train_passes" not in full


def test_rivals_have_the_same_passes(run: Path) -> None:
    summary = json.loads((run / "results.json").read_text())["summary"]
    against = {(row["method"], row["setting"]): row.get("against") for row in summary}
    assert against["multi_layer", "2x 2 passes"] == "skipdecode 2x 2 passes"


def test_the_report_has_budgets_equal_training_times_and_the_plot(run: Path) -> None:
    page = (run / "report.html").read_text()
    for part in ("Training budgets", "Equal training time", "quality_by_training_time", "models for all speeds"):
        assert part in page


def test_without_swept_passes_the_job_is_refused(tmp_path: Path) -> None:
    without = [f"~methods.{name}.sweep.passes" for name in ("full", "skipdecode", "multi_layer", "calm")]
    with pytest.raises(ConfigurationError, match=r"no method sweeps them.*sweep.passes=\[1,2,4\]"):
        training_budget(small_config(tmp_path, *without, experiment="training_budget"), tmp_path / "run")
