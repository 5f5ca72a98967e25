"""A whole small comparison: its files, its MLflow store, its failures and its second run."""

import json
import re
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.entities import Run
from transformers import OPTForCausalLM

from baselines.calm_threshold import ThresholdMatch
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.export.saved_method import load_method
from skiplab.jobs.compare import compare
from tests.comparison.small import small_config

QUALITY = ("bleu", "rouge_l", "slot_accuracy", "agreement")
SPEED = ("layer_speedup", "decode_speedup", "decode_tokens_per_s", "prefill_ms")
FAULTY = (
    "+methods.faulty={name:faulty,_target_:tests.comparison.faulty.FailsInTraining,sweep:{}}",
    "+methods.lost={name:lost,_target_:tests.comparison.faulty.FailsInDecoding,sweep:{}}",
)

# Only this module's shared run draws plots, which its tests inspect.
pytestmark = pytest.mark.usefixtures("no_plots")

# Two seeds, and an epsilon so large that calibrations can pass with few items, whatever the loss.
OVERRIDES = (
    *FAULTY,
    "calibration.delta=[0.3]",
    "calibration.epsilon=0.9",
    "methods.calm_calibrated.calibrate.quantile=[1.0,0.5]",
    "methods.calm_calibrated.sweep.confidence=[softmax,classifier]",
    "+methods.shallow={name:shallow,_target_:baselines.shallow.Shallow,end:top,sweep:{speedup:[2]}}",
    "seeds=[0,1]",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison in which two methods failed."""
    home = tmp_path_factory.mktemp("compare")
    assert compare(small_config(home, *OVERRIDES), home / "run") is False
    return home


def rows(home: Path) -> list[dict]:
    return json.loads((home / "run" / "results.json").read_text())["rows"]


def runs(home: Path) -> dict[str, Run]:
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("compare_calm")
    assert experiment is not None
    return {str(run.info.run_name): run for run in client.search_runs([experiment.experiment_id])}


def test_every_setting_has_its_figures(home: Path) -> None:
    good = [row for row in rows(home) if "error" not in row]
    assert {row["method"] for row in good} == {"full", "skipdecode", "multi_layer", "calm", "shallow", "hf_generate"}
    # Full, SkipDecode, multi-layer, CALM and their calibrated settings, shallow; the untrained ones have one seed.
    assert len([row for row in good if row["seed"] == 0]) == 2 * (2 + 2 + 2 + 2 + 1 + 2 + 1 + 1)
    assert len([row for row in good if row["seed"] == 1]) == 1 + 2 + 2 + 2 + 1 + 2 + 1
    for row in good:
        assert all(key in row for key in QUALITY)
        assert all(key in row for key in SPEED) == (row["seed"] == 0)
        for key in QUALITY:
            low, high = row[f"{key}_ci95"]
            # Sacrebleu's interval is centred on the bootstrap's mean, which differs from the score for few items.
            assert low - 1e-9 <= row[key] <= high + 1e-9 or key == "bleu"
            assert low <= high
        assert row.get("batch_size") in ((1, 4) if row["seed"] == 0 else (None,))
        assert ("kv_bytes" in row) == (row["method"] != "hf_generate" and row["seed"] == 0)
        assert ("threshold" in row) == (row["method"] == "calm" and row.get("calibrated") != "full depth")


def test_calibrated_settings_state_their_choice_and_store_it_beside_the_weights(home: Path) -> None:
    calibrated = [row for row in rows(home) if "calibrated" in row]
    assert {row["setting"] for row in calibrated} == {
        "calibrated delta=0.3",
        "softmax calibrated delta=0.3",
        "classifier calibrated delta=0.3",
    }
    kept = [json.loads(path.read_text()) for path in (home / "run").rglob("calibration-*.json")]
    assert len(kept) == 6, "two seeds of three settings"
    for row in calibrated:
        if row["calibrated"] != "full depth":
            assert row["calibration_loss"] <= 0.3
            assert "test_loss" in row
    for found in kept:
        assert found["delta"] == 0.3
        assert found["items"] == 10
        # Nothing is tested if the metric is 0 for the full model.
        passed = [one for one in found["tested"] if one["p_value"] <= 0.9]
        assert passed == found["tested"][: len(passed)]
        assert (found["chosen"] == "full depth") == (not passed)


def test_the_summary_is_over_seeds_and_against_skipdecode(home: Path) -> None:
    summary = json.loads((home / "run" / "results.json").read_text())["summary"]
    by_label = {f"{row['method']} {row['setting']}": row for row in summary}
    shallow = by_label["shallow 2x top 2"]
    assert shallow["seeds"] == [0, 1]
    assert shallow["against"] == "skipdecode 2x"
    own = [row["rouge_l"] for row in rows(home) if row["method"] == "shallow" and row.get("batch_size") in (1, None)]
    assert shallow["rouge_l"] == pytest.approx(sum(own) / 2)
    assert by_label["full 1x"]["seeds"] == [0]
    assert "against" not in by_label["full 1x"]
    assert by_label["calm softmax calibrated delta=0.3"]["against"] == "skipdecode calibrated delta=0.3"


def test_the_full_model_agrees_with_hugging_face_and_itself(home: Path) -> None:
    for row in rows(home):
        if row["method"] in ("full", "hf_generate"):
            assert row["layer_speedup"] == 1
            assert row["agreement"] == 1 or row["setting"] == "1x fine-tuned"


def test_a_failed_method_is_recorded_and_the_others_go_on(home: Path) -> None:
    errors = {row["method"]: row["error"] for row in rows(home) if "error" in row}
    assert errors == {"faulty": "RuntimeError: no loss today", "lost": "RuntimeError: no policy today"}
    found = runs(home)
    assert found["faulty always seed 0"].info.status == found["lost always seed 0"].info.status == "FAILED"
    assert found["skipdecode 2x seed 0"].info.status == found["run"].info.status == "FINISHED"


def test_mlflow_holds_curves_figures_and_artifacts(home: Path) -> None:
    found = runs(home)
    parent = found.pop("run")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert "| skipdecode | 2x |" in parent.data.tags["mlflow.note.content"]
    assert parent.inputs is not None
    assert {source.dataset.name for source in parent.inputs.dataset_inputs} == {"restaurants train", "restaurants test"}
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"report.html", "results.json", "results.csv", "config.yaml", "plots"}
    child = found["skipdecode 2x seed 0"]
    assert child.data.params["speedup"] == "2"
    assert {
        "bleu",
        "spread/bleu_ci95_low",
        "batch1/decode_speedup",
        "batch4/decode_speedup",
    } <= child.data.metrics.keys()
    assert client.get_metric_history(child.info.run_id, "train_loss")
    depths = client.get_metric_history(child.info.run_id, "depth")
    assert [int(point.value) for point in sorted(depths, key=lambda point: point.step)][:2] == [4, 2]
    assert [item.path for item in client.list_artifacts(child.info.run_id)] == ["outputs.json"]


def test_the_report_is_a_self_contained_page(home: Path) -> None:
    page = (home / "run" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert "failed: RuntimeError: no loss today" in page
    assert "src=" not in page
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'href="([^"]*)"', page))
    assert page.count("<script") == 1


def test_the_base_is_a_hugging_face_folder(home: Path) -> None:
    (base,) = (home / "cache").glob("base-*/")
    model = OPTForCausalLM.from_pretrained(base)
    assert model.config.num_hidden_layers == 4


def test_a_second_run_redoes_only_what_failed(home: Path) -> None:
    folder = home / "run"
    kept = {path: path.stat().st_mtime_ns for part in ("settings", "../cache") for path in (folder / part).rglob("*.*")}
    before, tracked = rows(home), len(runs(home))
    assert compare(small_config(home, *OVERRIDES, "description=reworded"), folder) is False
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert rows(home) == before
    assert len(runs(home)) == tracked
    assert "reworded" in (folder / "report.html").read_text()


def test_another_configuration_is_refused_and_nothing_is_overwritten(home: Path) -> None:
    before = {path: path.read_bytes() for path in (home / "run").iterdir() if path.is_file()}
    with pytest.raises(
        ConfigurationError,
        match=r"finished rows that this configuration would change: .*multi_layer 2x .passes=1 instead of 2",
    ):
        compare(small_config(home, *OVERRIDES, "speedups=[2]"), home / "run")
    assert before == {path: path.read_bytes() for path in (home / "run").iterdir() if path.is_file()}


def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot use the tracking store"):
        compare(small_config(tmp_path, f"tracking.uri=sqlite:///{tmp_path}/file/mlflow.db"), tmp_path / "run")


def test_a_new_store_gets_the_finished_settings_again(home: Path) -> None:
    fresh = f"tracking.uri=sqlite:///{home}/fresh/mlflow.db"
    assert compare(small_config(home, *OVERRIDES, fresh), home / "run") is False
    found = runs(home / "fresh")
    assert found.keys() == runs(home).keys()
    client = mlflow.MlflowClient(f"sqlite:///{home}/fresh/mlflow.db")
    for name, curve in (("base", "valid_loss"), ("skipdecode 2x seed 0", "train_loss")):
        assert client.get_metric_history(found[name].info.run_id, curve)
    assert {"bleu", "batch4/decode_speedup"} <= found["skipdecode 2x seed 0"].data.metrics.keys()


def test_the_next_run_repeats_only_the_timing_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(
        tmp_path,
        "method=calm",
        "method.confidence=state",
        "method.sweep.speedup=[2]",
        "methods.full.sweep.fine_tune=[false]",
        "benchmark.batch_sizes=[4]",
        "benchmark.layers_at=4",
    )

    def broken(*_):
        def run(prompts, lengths, pad_id, clock):
            raise RuntimeError("no time today")

        return run

    with monkeypatch.context() as patch:
        patch.setattr("skiplab.comparison.timekeeper.hf_generate_system", broken)
        assert compare(config, tmp_path / "run") is False
        failed = [row for row in rows(tmp_path) if "error" in row]
        assert [(row["method"], row["error"]) for row in failed] == [
            ("hf_generate", "timing: RuntimeError: no time today")
        ]
        assert "bleu" in failed[0]
        # A threshold that was found is not searched for again.
        monkeypatch.setattr(ThresholdMatch, "value_for", None)
        assert compare(config, tmp_path / "run") is False
    assert compare(config, tmp_path / "run") is True
    assert not [row for row in rows(tmp_path) if "error" in row]
    timing, layers = tmp_path / "run/timing.json", tmp_path / "run/layers.json"
    timed, before = timing.stat().st_mtime_ns, json.loads(layers.read_text())
    assert set(before) == {"full 1x", "calm state ~2x"}
    layers.unlink()
    assert compare(config, tmp_path / "run") is True
    assert timing.stat().st_mtime_ns == timed, "finished timings are kept; only the missing pass runs"
    assert set(json.loads(layers.read_text())) == set(before)


def test_a_figure_that_is_not_finite_fails_only_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(
        tmp_path, "method=skipdecode", "method.sweep.speedup=[2]", "methods.full.sweep.fine_tune=[false]"
    )
    figures = iter([3.0, float("inf")])
    monkeypatch.setattr("skiplab.comparison.settings.perplexity", lambda *_: next(figures))
    assert compare(config, tmp_path / "run") is False
    assert {row["method"]: row.get("error") for row in rows(tmp_path)} == {
        "full": None,
        "skipdecode": "ValueError: 'perplexity' is inf; leave out what was not measured",
        "hf_generate": None,
    }


@pytest.mark.parametrize("backbone", ["opt_tiny", "llama_tiny"])
def test_settings_decode_in_the_requested_number_format(backbone: str, tmp_path: Path) -> None:
    config = small_config(
        tmp_path,
        f"backbone={backbone}",
        *(["backbone.num_kv_heads=1"] if backbone == "llama_tiny" else []),
        "method=skipdecode",
        "method.sweep.speedup=[2]",
        "method.distill={logits:1.0,states:1.0}",
        "methods.full.sweep.fine_tune=[false]",
        "benchmark.batch_sizes=[4]",
        "decode_dtype=bfloat16",
        "save_models=true",
    )
    assert compare(config, tmp_path / "run") is True
    assert {row["dtype"] for row in rows(tmp_path)} == {"bfloat16"}
    method = load_method(tmp_path / "run" / "models" / "skipdecode-2x-distilled-logits+states-seed-0")
    assert method.backbone.dtype == torch.bfloat16
    record = json.loads((tmp_path / "run/settings/skipdecode-2x-distilled-logits+states-seed-0.json").read_text())
    prompts = [item.prompt for item in prepare(config).data.items("test")]
    assert method.generate(prompts) == record["outputs"]["texts"]
