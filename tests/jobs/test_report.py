"""A run's results and report are rewritten from its folder, whether or not the run is finished."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.compare import compare
from skiplab.jobs.report import report
from skiplab.reporting.results import write_results
from tests.comparison.small import small_config

pytestmark = pytest.mark.usefixtures("no_plots")


def report_config(folder: Path | None) -> DictConfig:
    with initialize_config_module("experiments", version_base="1.3"):
        run = [] if folder is None else [f"run={folder}"]
        return compose("config", overrides=["experiment=report", *run, "tracking.experiment=reports"])


def test_finished_settings_are_reported_and_no_others_are_made(tmp_path: Path) -> None:
    run = tmp_path / "run"
    only_full = [f"~methods.{name}" for name in ("multi_layer", "calm", "skipdecode_calibrated", "calm_calibrated")]
    config = small_config(tmp_path, *only_full, "benchmark.batch_sizes=[]", "tracking.uri=null", "speedups=[2]")
    assert compare(config, run)
    whole = json.loads((run / "results.json").read_text())
    for written in ("results.csv", "report.html"):
        (run / written).unlink()
    assert report(report_config(run), tmp_path)
    assert json.loads((run / "results.json").read_text()) == whole
    assert "skipdecode" in (run / "report.html").read_text()

    stored = json.loads((run / "config.json").read_text())
    del stored["benchmark"]["assisted"]
    (run / "config.json").write_text(json.dumps(stored))
    assert report(report_config(run), tmp_path), "a folder of an earlier version lacks newer keys"
    assert json.loads((run / "results.json").read_text()) == whole

    (run / "results.json").unlink()
    (run / "settings" / "skipdecode-2x-seed-0.json").unlink()
    assert report(report_config(run), tmp_path)
    assert {row["method"] for row in json.loads((run / "results.json").read_text())["rows"]} == {"full"}
    assert not (run / "settings" / "skipdecode-2x-seed-0.json").exists()


@pytest.mark.parametrize("folder", [None, Path("nowhere")])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, folder: Path | None) -> None:
    with pytest.raises(ConfigurationError, match=r"run must be the folder of a comparison, with its config.json, got"):
        report(report_config(folder), tmp_path)


def test_two_runs_are_laid_side_by_side(tmp_path: Path) -> None:
    for name, quality in (("one", 0.9), ("two", 0.8)):
        row = {"method": "full", "setting": "1x", "seed": 0, "slot_accuracy": quality}
        summary = [{"method": "full", "setting": "1x", "seeds": [0], "slot_accuracy": quality}]
        write_results(
            tmp_path / name, job="compare", experiment=name, environment={"cpu": "c"}, rows=[row], summary=summary
        )
    cfg = report_config(None)
    cfg.runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert report(cfg, tmp_path / "both")
    page = (tmp_path / "both" / "report.html").read_text()
    assert '<td data-value="0.9">0.900</td><td data-value="0.8">0.800</td>' in page


@pytest.mark.parametrize(
    ("runs", "message"),
    [(["nowhere"], "with two folders or more"), (["nowhere", "elsewhere"], "whose results.json has a summary")],
)
def test_runs_that_cannot_be_laid_side_by_side_are_refused(tmp_path: Path, runs: list[str], message: str) -> None:
    cfg = report_config(None)
    cfg.runs = runs
    with pytest.raises(ConfigurationError, match=message):
        report(cfg, tmp_path)
