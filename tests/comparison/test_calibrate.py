"""Calibration inside a comparison."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skiplab.comparison.claims import FOLDER, claimed
from skiplab.evaluation.metric import TextMetric, quality_figure
from skiplab.jobs.compare import compare
from tests.comparison.small import small_config

pytestmark = pytest.mark.usefixtures("no_plots")

# Every output that the first exit changes counts as a loss, so only full depth is certified.
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


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The override that gives all tests one cache, so that each training runs once."""
    return f"cache_dir={tmp_path_factory.mktemp('cache')}"


@pytest.mark.parametrize("reference", ["base", "own"])
def test_full_depth_is_chosen_if_no_hypothesis_passes(tmp_path: Path, cache: str, reference: str) -> None:
    config = small_config(tmp_path, cache, *NONE_PASSES, f"calibration.reference={reference}")
    assert compare(config, tmp_path / "run")
    full, calm = json.loads((tmp_path / "run/results.json").read_text())["rows"]
    assert (full["method"], calm["method"]) == ("full", "calm")
    assert calm["calibrated"] == "full depth"
    assert calm["layer_speedup"] == 1
    assert "calibration_loss" not in calm
    # The base at full depth is the full model; the multi-exit weights at full depth are another model.
    assert (calm["agreement"] == 1) == (reference == "base")
    (verdict,) = (tmp_path / "run/calibration").glob("calibration-*.json")
    found = json.loads(verdict.read_text())
    assert found["chosen"] == "full depth"
    assert found["tested"][0]["p_value"] > 0.05
    assert found["items"] == 10


ZERO = TextMetric(quality_figure("always_zero", "0 whatever the output"), lambda _output, _references: 0.0)
ONE = TextMetric(quality_figure("always_one", "1 whatever the output"), lambda _output, _references: 1.0)


@pytest.mark.parametrize(
    ("name", "metric", "reason"),
    [
        ("ZERO", "always_zero", "always_zero of the full model is 0, the worst score, on all 10 calibration items"),
        ("ONE", "always_one", "always_one is 1 for every output, blank ones included, so no loss in it can be seen"),
    ],
)
@pytest.mark.parametrize("method", ["calm_calibrated", "skipdecode_calibrated"])
def test_a_metric_that_is_the_same_for_all_outputs_certifies_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: str, method: str, name: str, metric: str, reason: str
) -> None:
    options = [option for option in NONE_PASSES if "consistency" not in option and "p_value" not in option]
    options = options if method == "calm_calibrated" else [f"method={method}", *options[3:]]
    config = small_config(
        tmp_path, cache, *options, f"metrics=[{__name__}.{name}]", f"calibration.metric={metric}", "limit=16"
    )
    assert compare(config, tmp_path / "run")
    row = json.loads((tmp_path / "run/results.json").read_text())["rows"][1]
    assert (row["calibrated"], row["layer_speedup"]) == ("full depth", 1)
    assert row["not_certified"] == reason
    console = " ".join(capsys.readouterr().out.split())
    assert f"not certified: {reason}" in console
    assert console.count("The test split has 16 items, fewer than 100") == 1
    report = (tmp_path / "run/report.html").read_text()
    assert reason in report
    assert "The test split has 16 items, fewer than 100" in report


def test_hypotheses_ahead_are_measured_while_another_process_measures_the_next(tmp_path: Path, cache: str) -> None:
    ladder = ("method.calibrate.quantile=[1.0,0.98,0.96,0.94]", "calibration.delta=[0.6]")
    config = small_config(tmp_path, cache, *NONE_PASSES, *ladder, "calibration.epsilon=0.9")
    run, folder = tmp_path / "run", tmp_path / "run/calibration"
    assert compare(config, run)
    before = json.loads((run / "results.json").read_text())["rows"]
    first, second, third, fourth = sorted(folder.glob("calm-*.json"), key=lambda path: path.stat().st_mtime_ns)
    found = first.read_text()
    for path in (first, second, third, *folder.glob("calibration-*"), *run.glob("settings/calm-*")):
        path.unlink()
    fourth_before = fourth.stat().st_mtime_ns

    def measure_first() -> None:
        """The other process."""
        while not third.exists():
            time.sleep(0.02)
        first.write_text(found)

    with claimed(run / FOLDER, [f"calibration-{first.stem}"]), ThreadPoolExecutor() as other:
        done = other.submit(measure_first)
        assert compare(config, run)
        done.result()
    assert json.loads((run / "results.json").read_text())["rows"] == before
    assert first.stat().st_mtime_ns > third.stat().st_mtime_ns > second.stat().st_mtime_ns
    assert fourth.stat().st_mtime_ns == fourth_before
