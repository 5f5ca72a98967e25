"""Configurations that are refused before anything is trained or written."""

from pathlib import Path

import pytest

from skiplab.comparison.prepare import ConfigurationError, prepare
from tests.comparison.small import small_config
from tests.store import written

# Given exit layers instead of speedups.
EXITS = ("~methods.skipdecode.sweep",)


def test_a_good_configuration_is_prepared(tmp_path: Path) -> None:
    prepared = prepare(small_config(tmp_path))
    assert [case.entry.label for case in prepared.cases] == [
        "full 1x",
        "full 1x fine-tuned",
        "skipdecode 1.5x",
        "skipdecode 2x",
        "multi_layer 1.5x",
        "multi_layer 2x",
        "calm softmax ~1.5x",
        "calm softmax ~2x",
    ]
    assert written(tmp_path) == []


def test_one_method_is_compared_with_the_full_model(tmp_path: Path) -> None:
    prepared = prepare(small_config(tmp_path, "method=multi_layer"))
    assert {case.entry.method for case in prepared.cases} == {"full", "multi_layer"}


def test_the_base_depends_on_backbone_data_and_training_only(tmp_path: Path) -> None:
    def key(*overrides: str) -> str:
        return prepare(small_config(tmp_path, *overrides)).base_key

    assert key() == key("speedups=[2]", "trainer.max_epochs=3", "seeds=[4]")
    changes = [
        "backbone.init_std=0.1",
        "data.seed=1",
        "base.max_epochs=2",
        "base.seed=1",
        "limit=15",
        "trainer.beta2=0.9",
    ]
    assert len({key(), *(key(change) for change in changes)}) == 1 + len(changes)


def test_a_whole_number_is_the_same_as_a_float(tmp_path: Path) -> None:
    """Otherwise everything would be trained twice."""
    whole = prepare(small_config(tmp_path, "backbone.dropout=0", "trainer.learning_rate=1", "base.learning_rate=2"))
    other = prepare(
        small_config(tmp_path, "backbone.dropout=0.0", "trainer.learning_rate=1.0", "base.learning_rate=2.0")
    )
    assert whole.base_key == other.base_key
    assert repr(whole.trainer) == repr(other.trainer)


def test_calibrated_settings_are_left_out_under_a_limit_that_is_too_small_for_them(tmp_path: Path) -> None:
    prepared = prepare(small_config(tmp_path))
    assert all(case.delta is None for case in prepared.cases)
    few, note = prepared.notes
    assert few == "The test split has 16 items, fewer than 100: its figures are rough"
    assert "10 calibration items cannot certify delta=0.02 at epsilon=0.05" in note
    assert "at least 149 items" in note
    whole = prepare(small_config(tmp_path, "calibration.delta=[0.3]"))
    assert {case.entry.label for case in whole.cases if case.delta == 0.3} == {
        "skipdecode calibrated delta=0.3",
        "calm softmax calibrated delta=0.3",
        "calm state calibrated delta=0.3",
        "calm classifier calibrated delta=0.3",
    }
    assert whole.notes == (few, few.replace("test split has 16", "calibration split has 10"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["limit=null"], "10 calibration items cannot certify delta=0.02 at epsilon=0.05 .* at least 149 items"),
        (["calibration.delta=[2.0]", "limit=null"], "delta must lie between 0 and 1, both excluded, got 2"),
        (["calibration.reference=own", "calibration.delta=[0.3]"], "hypotheses of skipdecode calibrated"),
        (["calibration.delta=[1.5]"], "delta must lie between 0 and 1"),
        (["benchmark.layers_at=0"], "benchmark.layers_at must be at least 1, got 0"),
        (["calibration.metric=blue"], "calibration metric must be one of rouge_1, .*, slot_accuracy for"),
        (["calibration.p_value=binomial"], "losses of 0 or 1: use consistency=exact"),
        (
            ["calibration.consistency=loose"],
            "calibration.consistency must be 'risk', 'textual' or 'exact', got 'loose'",
        ),
        (["+calibration.alpha=1"], "calibration.alpha is unknown; choose from consistency"),
        (["speedups=[9]"], "method skipdecode: target speedup 9 cannot be reached: 4 layers with a warm-up of 1 allow"),
        (["methods.skipdecode.warmup=7"], "warmup must lie between 0 and the 4 layers, got 7"),
        ([*EXITS, "+methods.skipdecode.max_exit=2", "+methods.skipdecode.min_exit=3"], "min_exit=3, max_exit=2"),
        (
            [*EXITS, "+methods.skipdecode.max_exit=3", "+methods.skipdecode.min_exit=2", "methods.skipdecode.warmup=3"],
            "warmup must lie between 0 and min_exit=2, got 3",
        ),
        (["methods.skipdecode.decay=lineal"], "unknown decay 'lineal'; did you mean linear"),
        (["+methods.skipdecode.sped=2"], "methods.skipdecode.sped is unknown; did you mean spread"),
        (["~methods.calm.sweep.speedup", "+methods.calm.sweep.threshold=[2.0]"], "threshold must lie in"),
        (["backbone.max_positions=40"], "backbone has 40 positions"),
        (["backbone.num_heads=3"], "multiple of num_heads, got 16 and 3"),
        (["max_new_tokens=5"], "max_new_tokens is 5"),
        (["trainer.learning_rate=-1"], "learning_rate must be above 0, got -1"),
        (["trainer=gpu"], "asks for a GPU, and this machine has none"),
        (["seeds=[]"], r"seeds must have at least 1 item, got \[\]"),
        (["seeds=[-1]"], r"seeds\[0\] must be at least 0, got -1"),
        (["seeds=1"], "seeds must be a list, got 1"),
        (["speedups=[2,three]"], r"speedups\[1\] must be a number, got 'three'"),
        (["max_new_tokens=null"], "max_new_tokens must be an integer, got null"),
        (["trainer.learning_rate=fast"], "trainer.learning_rate must be a number, got 'fast'"),
        (["base.learning_rate=fast"], "base.learning_rate must be a number, got 'fast'"),
        (["+base.batchsize=3"], "base.batchsize is unknown; did you mean batch_size"),
        (["backbone.num_layers=4.5"], "backbone.num_layers must be an integer, got 4.5"),
        (["data.train_size=1e2"], "data.train_size must be an integer, got 100.0; write 100"),
        (["trainer.precision=fp16"], "Lightning refuses trainer accelerator=cpu, devices=1, num_nodes=1"),
        (["trainer.devices=0"], "trainer.devices, num_nodes and accumulate must be at least 1, got 0, 1 and 1"),
        (["trainer.strategy=zero"], "trainer.strategy must be 'auto', 'ddp' or 'fsdp', got 'zero'"),
        (["trainer.accumulate=40"], "batch_size=32 examples cannot be divided among 1 processes in 40 parts each"),
        (["+base.devices=2"], "base.devices must be set as trainer.devices, for all trainings"),
        (["+methods.x={sweep:{}}"], "methods.x must be a node with name and _target_"),
        (["benchmark.prompts=0"], "benchmark.prompts must be at least 1"),
        (["threads=0"], "threads must be at least 1"),
        (["benchmark.new_tokens=1"], "benchmark.new_tokens must be at least 2, got 1"),
        (["benchmark.rounds=1"], "benchmark.rounds must be at least 2, got 1"),
        (["methods.skipdecode._target_=skiplab.nothing.X"], "skiplab.nothing"),
    ],
)  # fmt: skip
def test_bad_configurations_say_what_is_wrong(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepare(small_config(tmp_path, *overrides))
    assert written(tmp_path) == []


def test_missing_e2e_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot get tuetschek/e2e_nlg .*the folder of .*data.dir=DIR"):
        prepare(small_config(tmp_path, "data=e2e", task=()))
    with pytest.raises(ConfigurationError, match=r"no devset.csv in /nowhere: data.dir must be the folder"):
        prepare(small_config(tmp_path, "data=e2e", "data.dir=/nowhere", task=()))
