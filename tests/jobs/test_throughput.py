"""The job that times decoding at a model shape."""

import json
from pathlib import Path

import mlflow
import pytest
from omegaconf import DictConfig

from skiplab.benchmarking.random_backbone import BOS, EOS, PAD
from skiplab.benchmarking.roofline import Ceilings, Footprint, bytes_speedup, least_seconds, steps_of
from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.throughput import throughput
from tests.comparison.small import tiny_shape
from tests.composed import composed
from tests.store import ready_store

SMALL = (
    "backbone.num_layers=4",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "backbone.vocab_size=104",
    "throughput.prompt_tokens=6",
    "throughput.new_tokens=5",
    "throughput.batch_sizes=[1,3]",
    "throughput.dtypes=[float32,bfloat16,int8]",
    "benchmark.rounds=2",
    "benchmark.warmup=0",
    "speedups=[2]",
    "methods.calm.sweep.batch_policy=[compact]",
    "throughput.held_out_batches=[3]",
    "throughput.held_out_speedups=[]",
)


def config(folder: Path, *overrides: str) -> DictConfig:
    store = (f"tracking.uri={ready_store(folder)}", "tracking.experiment=throughput")
    return composed("experiment=throughput", *SMALL, *store, *overrides)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("throughput")
    assert throughput(config(home), home / "run")
    return home


def results(home: Path) -> dict:
    return json.loads((home / "run" / "results.json").read_text())


def test_every_system_is_timed_in_every_format_and_batch_size(home: Path) -> None:
    rows = results(home)["rows"]
    systems = {(row["method"], row["setting"]) for row in rows}
    assert systems == {
        ("full", "1x"),
        ("full", "1x reference path"),
        ("skipdecode", "2x"),
        ("early_termination", "2x"),
        ("calm", "drawn ~2x compact"),
        ("hf_generate", "full depth"),
    }
    # int8 has no reference path, and Hugging Face is not timed in it.
    assert len(rows) == (3 * len(systems) - 2) * 2
    for row in rows:
        assert row["timing_rounds"] == 2
        assert row["decode_speedup"] > 0
        assert row["setting"] != "1x" or row["decode_speedup"] == 1
        assert ("agreement" in row) == (row["method"] == "full")
        if row["method"] == "full" and row["dtype"] == "float32":
            assert row["agreement"] == 1


def test_bounds_follow_from_the_shape_and_the_measured_ceilings(home: Path) -> None:
    found = results(home)
    ceilings = Ceilings(**found["environment"]["ceilings"]["float32"])
    size = Footprint.of(tiny_shape(4, 16, 2, 104).build(vocab_size=104, pad_id=PAD, bos_id=BOS, eos_id=EOS))
    (row,) = [
        row for row in found["rows"] if (row["method"], row["dtype"], row["batch_size"]) == ("skipdecode", "float32", 3)
    ]
    steps = steps_of([2] * 4, rows=3, prompt=6)
    assert row["layers_per_step"] == 2
    assert row["bytes_speedup"] == pytest.approx(bytes_speedup(steps, size))
    assert row["realised_fraction"] == pytest.approx(row["decode_speedup"] / row["bytes_speedup"])
    taken = row["decode_ms_per_step"] * 4 / 1e3
    assert row["roofline_fraction"] == pytest.approx(least_seconds(steps, size, ceilings) / taken)


def test_mlflow_has_a_run_per_system(home: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("throughput")
    assert experiment is not None
    runs = {str(run.info.run_name): run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 1 + 16
    assert {"batch1/realised_fraction", "batch3/decode_ms_per_step"} <= runs[
        "skipdecode 2x bfloat16"
    ].data.metrics.keys()
    artifacts = {item.path for item in client.list_artifacts(runs["throughput"].info.run_id)}
    assert artifacts >= {"report.html", "results.json", "plots"}


def test_a_finished_batch_size_is_not_timed_again(home: Path) -> None:
    before = results(home)["rows"]
    assert throughput(config(home, "description=reworded"), home / "run")
    assert results(home)["rows"] == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["throughput.dtypes=[float64]"], "unknown throughput dtypes 'float64'; did you mean float16"),
        (
            ["throughput.peers=[vllm]"],
            "unknown throughput peers 'vllm'; choose from hf_generate, hf_generate_static, ctranslate2",
        ),
        (["throughput.new_tokens=1"], "two new ones, got 6 and 1"),
        (["throughput.batch_sizes=[]"], "batch_sizes must be at least 1"),
        (["speedups=[9]"], "method skipdecode: target speedup 9 cannot be reached"),
        (["throughput.prompt_tokens=3000"], "3000 prompt and 5 new tokens do not fit 2048 positions"),
    ],
)
def test_bad_configurations_say_what_is_wrong(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        throughput(config(tmp_path, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_peer_is_named_before_anything_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skiplab.benchmarking.throughput_spec.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"ctranslate2 is not installed: pip install 'skiplab\[bench\]'"):
        throughput(config(tmp_path, "throughput.peers=[ctranslate2]"), tmp_path / "run")


def test_ctranslate2_times_the_same_weights(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="the extra bench is not installed")
    only = ("~methods.skipdecode", "~methods.early_termination", "~methods.calm", "throughput.dtypes=[float32]")
    assert throughput(config(tmp_path, *only, "throughput.peers=[ctranslate2]"), tmp_path / "run")
    kinds = {row["dtype"] for row in results(tmp_path)["rows"] if row["method"] == "ctranslate2"}
    assert kinds == {"float32", "int8"}
