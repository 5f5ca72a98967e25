"""Runs that repeat no training: the same folder with more rows, another folder with the same cache."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

from skiplab.comparison import model_store
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import Session
from skiplab.export.saved_method import load_method
from skiplab.jobs.compare import compare
from skiplab.training.trainer import train
from skiplab.utils.figures import FIGURES
from skiplab.utils.run_folder import RunFolder
from tests.comparison.small import small_config
from tests.store import ready_store

BARE = (
    "~methods.calm", "~methods.calm_calibrated", "~methods.skipdecode_calibrated", "benchmark.batch_sizes=[]",
    "methods.full.sweep.fine_tune=[false]",
)  # fmt: skip
ONE = (*BARE, "~methods.multi_layer", "speedups=[2]")
UNTRACKED = "tracking.uri=null"
pytestmark = pytest.mark.usefixtures("no_plots")
TRAINING = ("train_passes", "train_tokens", "train_layer_tokens", "train_cpu_s", "valid_loss")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the trainings that run, in order: base, method or probe."""
    names: list[str] = []

    def noted(*args: Any, folder: Path, **options: Any) -> dict[str, float]:
        names.append(folder.name.split("-")[0])
        return train(*args, folder=folder, **options)

    monkeypatch.setattr(model_store, "train", noted)
    return names


def rows(folder: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    found = json.loads((folder / "results.json").read_text())["rows"]
    return {(row["method"], row["setting"], row["seed"]): row for row in found}


def records(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / "settings").iterdir()}


def test_another_folder_metric_and_speedup_repeat_no_training(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only this test registers the metric.
    monkeypatch.setattr(FIGURES, "_by_name", dict(FIGURES._by_name))
    assert compare(small_config(tmp_path, *ONE), tmp_path / "one")
    assert trained == ["base", "method"]
    more = ("speedups=[1.5,2]", "metrics=[tests.comparison.own_parts.LENGTH]", "save_models=true")
    store = ready_store(tmp_path / "fresh")
    assert compare(small_config(tmp_path, *ONE, *more, f"tracking.uri={store}"), tmp_path / "two")
    assert trained == ["base", "method", "method"]
    one, two = (rows(tmp_path / name)["skipdecode", "2x", 0] for name in ("one", "two"))
    assert {name: one[name] for name in TRAINING} == {name: two[name] for name in TRAINING}
    assert two["output_length"] > 0
    assert two["models_per_speed_range"] == 2
    assert {name for name in two if name not in one} == {"output_length", "output_length_ci95"}
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("compare_calm")
    assert experiment is not None
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert client.get_run(runs["two"]).data.tags["mlflow.note.content"], "the run of the job is called like its folder"
    for setting in ("skipdecode 1.5x", "skipdecode 2x"):
        assert client.get_metric_history(runs[setting], "train_loss"), setting
    method = load_method(tmp_path / "two" / "models" / "skipdecode-2x-seed-0")
    kept = json.loads((tmp_path / "one" / "settings" / "skipdecode-2x-seed-0.json").read_text())
    prompts = [item.prompt for item in prepare(small_config(tmp_path, *ONE)).data.items("test")]
    assert method.tokens(prompts) == kept["outputs"]["tokens"]


def test_a_folder_grows_by_speedups_seeds_and_methods(tmp_path: Path, trained: list[str]) -> None:
    folder = tmp_path / "run"
    assert compare(small_config(tmp_path, *ONE, UNTRACKED), folder)
    first, before = rows(folder), records(folder)
    shallow = "+methods.shallow={name:shallow,_target_:baselines.shallow.Shallow,end:top,sweep:{speedup:[2]}}"
    grown = small_config(tmp_path, *ONE, shallow, "speedups=[1.5,2]", "seeds=[0,1]", "save_models=true", UNTRACKED)
    assert compare(grown, folder)
    assert trained == ["base"] + 6 * ["method"]
    more = rows(folder)
    assert set(more) > set(first)
    assert {key[:2] for key in more} == {
        ("full", "1x"), ("skipdecode", "1.5x"), ("skipdecode", "2x"), ("shallow", "2x top 2")
    }  # fmt: skip
    for key, row in first.items():
        models = {"models_per_speed_range": 2} if key[0] == "skipdecode" else {}
        assert more[key] == {**row, **models}
    assert load_method(folder / "models" / "skipdecode-2x-seed-0").generate([]) == []

    assert compare(small_config(tmp_path, *ONE, UNTRACKED), folder)
    assert rows(folder) == first, "rows that are not requested are not shown"
    assert set(records(folder)) > set(before), "but they are kept"
    assert compare(grown, folder)
    assert rows(folder) == more
    assert len(trained) == 7


def test_a_configuration_that_changes_finished_rows_is_refused(tmp_path: Path, trained: list[str]) -> None:
    folder = tmp_path / "run"
    multi = (*BARE, UNTRACKED, "~methods.skipdecode", "speedups=[2]")
    assert compare(small_config(tmp_path, *multi), folder)
    before, known = records(folder), (folder / "config.json").read_bytes()
    for overrides, message in (
        (["speedups=[1.5,2]"], r"change: multi_layer 2x \(passes=2 instead of 1\); set the earlier values"),
        (["methods.multi_layer.spread=0.2", "methods.multi_layer.passes=2"], r"differs in spread; passes=2 instead"),
        (["limit=8"], r"another configuration \(it differs in limit\)"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            compare(small_config(tmp_path, *multi, *overrides), folder)
        assert (records(folder), (folder / "config.json").read_bytes()) == (before, known)
    kept = ("speedups=[1.5,2]", "methods.multi_layer.passes=1")
    assert compare(small_config(tmp_path, *multi, *kept), folder)
    assert trained == ["base", "method"], "one model serves both speedups"
    assert {key[1] for key in rows(folder)} == {"1x", "1.5x", "2x"}


def weights(tmp_path: Path, *overrides: str) -> dict[str, str]:
    """Names of the folders with the weights and probes of each setting."""
    prepared = prepare(small_config(tmp_path, UNTRACKED, *overrides))
    models = ModelStore(Session(prepared, RunFolder(tmp_path / "run")))
    vars(models)["lengths"] = [9, 12, 20]
    cases = {case.entry.label: case.candidates[0] for case in prepared.cases}
    return {name: "+".join(path.name for path in models._trained_folders(spec, 0)) for name, spec in cases.items()}


def test_the_key_of_a_training_has_exactly_what_weights_depend_on(tmp_path: Path) -> None:
    methods = (
        *BARE[1:], "~methods.multi_layer", "speedups=[2]",
        "methods.calm.passes=1", "methods.calm.sweep.confidence=[softmax,classifier]",
        "+method@methods.taught=skipdecode", "methods.taught.distill={logits:1.0}",
        "+methods.own={name:own,_target_:tests.comparison.own_parts.DoubledLoss,sweep:{speedup:[2]}}",
    )  # fmt: skip
    first = weights(tmp_path, *methods)
    calm, taught = ["calm softmax ~2x", "calm classifier ~2x"], "skipdecode 2x distilled logits"
    assert set(first) == {"full 1x", "skipdecode 2x", *calm, taught, "own 2x"}
    free = ("workers=2", "bertscore=null", "calibration.epsilon=0.3", "save_models=true", "benchmark.rounds=9")
    assert weights(tmp_path, *methods, *free, "decode_batch_size=3", "trainer.accumulate=2") == first
    in_bfloat16 = weights(tmp_path, *methods, "decode_dtype=bfloat16")
    assert {name for name in first if in_bfloat16[name] == first[name]} == {
        "full 1x", "skipdecode 2x", "calm softmax ~2x"
    }  # fmt: skip
    assert in_bfloat16[calm[1]].split("+")[0] == first[calm[0]], "only the classifier differs"
    own = ("trainer.learning_rate=1e-4", "trainer.batch_size=8", "base.seed=1", "limit=15", "backbone.dropout=0.5")
    for change in own:
        changed = weights(tmp_path, *methods, change)
        assert {name for name in first if changed[name] == first[name]} == {"full 1x"}, change
