"""The typed configuration: which keys it refuses, and which value takes precedence."""

from pathlib import Path
from typing import Any

import pytest

from skiplab.comparison.config import RunConfig, load
from skiplab.comparison.prepare import ConfigurationError
from skiplab.comparison.session import open_tracker
from skiplab.reporting.tracker import NoTracker
from tests.comparison.small import small_config
from tests.composed import composed

JOBS = ("scaling", "search_schedule", "throughput", "capacity")
# Experiment, overrides, key that the message names, rest of the message.
BAD: list[tuple[str, list[str], str, str]] = [
    # Null where it has no meaning.
    *(
        ("compare_calm", [f"{key}=null"], key, "got null")
        for key in (
            "job", "speedups", "seeds", "methods", "threads", "cache_dir", "checkpoint_every", "base", "base.seed",
            "template", "template.prompt", "max_new_tokens", "save_models", "decode_batch_size", "benchmark",
            "benchmark.rounds", "benchmark.batch_sizes", "calibration", "calibration.delta", "metrics",
            "tracking.experiment", "trainer.batch_size", "trainer.devices", "backbone.num_layers", "data.seed",
            "data._target_", "methods.skipdecode", "methods.skipdecode.warmup", "methods.calm.batch_policy",
        )
    ),
    # Wrong type.
    ("compare_calm", ["speedups=2"], "speedups", "must be a list, got 2"),
    ("compare_calm", ["speedups=[2,three]"], "speedups[1]", "must be a number, got 'three'"),
    ("compare_calm", ["seeds=[0.5]"], "seeds[0]", "must be an integer, got 0.5"),
    ("compare_calm", ["seeds=[true]"], "seeds[0]", "must be an integer, got true"),
    ("compare_calm", ["threads='2'"], "threads", "got '2'; write 2 without quotes"),
    ("compare_calm", ["threads=true"], "threads", "must be an integer, got true"),
    ("compare_calm", ["limit=2.5"], "limit", "must be an integer, got 2.5"),
    ("compare_calm", ["save_models=1"], "save_models", "must be a boolean, got 1"),
    ("compare_calm", ["bertscore=[x]"], "bertscore", "must be a string"),
    ("compare_calm", ["benchmark=3"], "benchmark", "must be a section of keys and values, got 3"),
    ("compare_calm", ["benchmark.rounds=2.5"], "benchmark.rounds", "must be an integer, got 2.5"),
    ("compare_calm", ["benchmark.batch_sizes=[1,x]"], "benchmark.batch_sizes[1]", "must be an integer, got 'x'"),
    ("compare_calm", ["metrics=[1]"], "metrics[0]", "must be a string, got 1"),
    ("compare_calm", ["trainer.batch_size='2'"], "trainer.batch_size", "write 2 without quotes"),
    ("compare_calm", ["trainer.batch_size=2.5"], "trainer.batch_size", "must be an integer"),
    ("compare_calm", ["trainer.learning_rate=true"], "trainer.learning_rate", "must be a number, got true"),
    ("compare_calm", ["trainer.gradient_checkpointing=1"], "trainer.gradient_checkpointing", "must be a boolean"),
    ("compare_calm", ["base.learning_rate=fast"], "base.learning_rate", "must be a number, got 'fast'"),
    ("compare_calm", ["backbone.dropout=high"], "backbone.dropout", "must be a number, got 'high'"),
    ("compare_calm", ["data.train_size=1e2"], "data.train_size", "got 100.0; write 100"),
    ("compare_calm", ["calibration.delta=0.1"], "calibration.delta", "must be a list"),
    ("compare_calm", ["calibration.consistency=textul"], "calibration.consistency", "did you mean textual?"),
    ("compare_calm", ["decode_dtype=float23"], "decode_dtype", "did you mean float32?"),
    ("compare_calm", ["methods.skipdecode.warmup='1'"], "methods.skipdecode.warmup", "write 1 without quotes"),
    ("compare_calm", ["methods.skipdecode.sweep=3"], "methods.skipdecode.sweep", "must be a mapping"),
    ("compare_calm", ["methods.skipdecode.sweep.speedup=[x]"], "methods.skipdecode.sweep.speedup", "must be a number"),
    ("compare_calm", ["methods.skipdecode.distill={logits:x}"], "methods.skipdecode.distill.logits", "a number"),
    ("compare_calm", ["methods.calm.batch_policy=freez"], "methods.calm.batch_policy", "did you mean freeze?"),
    ("search_schedule", ["search.trials=2.5"], "search.trials", "must be an integer"),
    ("search_schedule", ["search.objectives.loss=3"], "search.objectives.loss", "must be a string, got 3"),
    ("search_schedule", ["search.space.warmup=[0,x]"], "search.space.warmup[1]", "must be an integer"),
    ("throughput", ["throughput.batch_sizes=[1.5]"], "throughput.batch_sizes[0]", "must be an integer"),
    ("capacity", ["capacity.run=3"], "capacity.run", "must be a string or a list, got 3"),
    ("compare_calm", ["generation.do_sample=yes"], "generation.do_sample", "must be true or false, got 'yes'"),
    ("compare_calm", ["generation.top_p=0.9"], "generation.top_p", "has an effect only in sampling: add"),
    ("compare_calm", ["+generation.num_beams=4"], "generation.num_beams", "is not supported, got 4; num_beams=1"),
    ("compare_calm", ["+generation.temprature=1"], "generation.temprature", "did you mean temperature?"),
    ("compare_calm", ["+generation.max_new_tokens=4"], "generation.max_new_tokens", "must be set as max_new_tokens"),
    # Out of range.
    ("compare_calm", ["speedups=[]"], "speedups", "must have at least 1 item"),
    ("compare_calm", ["speedups=[0.5]"], "speedups[0]", "must be at least 1, got 0.5"),
    ("compare_calm", ["seeds=[-1]"], "seeds[0]", "must be at least 0, got -1"),
    ("compare_calm", ["seeds=[4294967296]"], "seeds[0]", "must be below 4294967296"),
    ("compare_calm", ["base.seed=-1"], "base.seed", "must be at least 0"),
    ("compare_calm", ["threads=0"], "threads", "must be at least 1, got 0"),
    ("compare_calm", ["threads=100000"], "threads", "must be at most 1024"),
    ("compare_calm", ["limit=0"], "limit", "must be at least 1"),
    ("compare_calm", ["checkpoint_every=-1"], "checkpoint_every", "must be at least 0"),
    ("compare_calm", ["benchmark.rounds=1"], "benchmark.rounds", "must be at least 2"),
    ("compare_calm", ["benchmark.new_tokens=100"], "benchmark.new_tokens", "max_new_tokens=48"),
    ("compare_calm", ["trainer.weight_decay=-1"], "trainer.weight_decay", "must be at least 0, got -1"),
    ("compare_calm", ["trainer.beta2=1"], "trainer.beta2", "must lie in [0, 1), got 1"),
    ("compare_calm", ["trainer.gradient_clip=-1"], "trainer.gradient_clip", "must be at least 0"),
    ("compare_calm", ["base.learning_rate=0"], "base.learning_rate", "must be above 0, got 0"),
    ("compare_calm", ["backbone.hidden_size=-16"], "backbone.hidden_size", "must be at least 1, got -16"),
    ("compare_calm", ["data.test_size=0"], "data.test_size", "must be at least 1, got 0"),
    ("scaling", ["steps_per_round=1"], "steps_per_round", "must be at least 3, got 1"),
    ("search_schedule", ["workers=0"], "workers", "must be at least 1"),
    ("capacity", ["capacity.run=[]"], "capacity.run", "have at least 1 item, got []"),
    ("capacity", ["capacity.dtype=int9"], "capacity.dtype", "must be one of float32"),
    # Not finite.
    ("compare_calm", ["trainer.learning_rate=nan"], "trainer.learning_rate", "must be a finite number, got nan"),
    ("compare_calm", ["speedups=[2,inf]"], "speedups[1]", "must be a finite number, got inf"),
    ("search_schedule", ["search.space.max_exit=[2,nan]"], "search.space.max_exit[1]", "must be a finite number"),
    # Unknown or misspelt.
    ("compare_calm", ["+speedup=[2]"], "speedup", "is unknown; did you mean speedups?"),
    ("compare_calm", ["+benchmark.round=3"], "benchmark.round", "is unknown; did you mean rounds?"),
    ("compare_calm", ["+trainer.epochs=3"], "trainer.epochs", "is unknown; did you mean max_epochs?"),
    ("compare_calm", ["+base.batchsize=3"], "base.batchsize", "is unknown; did you mean batch_size?"),
    ("compare_calm", ["+backbone.layers=3"], "backbone.layers", "is unknown; did you mean num_layers?"),
    ("compare_calm", ["+data.size=3"], "data.size", "is unknown; did you mean"),
    ("compare_calm", ["+template.longest=3"], "template.longest", "is unknown; did you mean longest_"),
    ("compare_calm", ["+methods.calm.confidance=state"], "methods.calm.confidance", "did you mean confidence?"),
    ("compare_calm", ["+methods.calm.sweep.confidance=[state]"], "methods.calm.sweep.confidance", "did you mean"),
    ("compare_calm", ["+methods.x={sweep:{}}"], "methods.x", "must be a node with name and _target_"),
    ("search_schedule", ["+search.trails=3"], "search.trails", "is unknown; did you mean trials?"),
    ("compare_calm", ["data._target_=os.system"], "data._target_", "must name a class"),
    ("compare_calm", ["data._target_=collections.Counter"], "data._target_", "must name a Source"),
    ("compare_calm", ["backbone._target_=skiplab.nothing.X"], "backbone._target_", "that can be imported"),
    ("compare_calm", ["methods.calm._target_=skiplab.data.e2e.E2E"], "methods.calm._target_", "an ExitModule"),
    # Missing.
    ("compare_calm", ["~benchmark.rounds"], "benchmark.rounds", "is missing; give it as benchmark.rounds=VALUE"),
    ("compare_calm", ["~trainer._target_"], "trainer", "choose one as trainer=NAME, of cpu"),
    ("compare_calm", ["~data"], "data", "is missing; choose one as data=NAME, of cnn_dm"),
    ("compare_calm", ["limit=${nothing}"], "limit", "Interpolation key 'nothing' not found"),
]  # fmt: skip


def configuration(folder: Path, experiment: str, *overrides: str) -> RunConfig:
    # An override may remove the task's own.
    task = () if "~data" in overrides else ("data.train_size=64", "max_new_tokens=48")
    return load(small_config(folder, *overrides, experiment=experiment, task=task))


@pytest.mark.parametrize(("experiment", "overrides", "key", "message"), BAD)
def test_the_message_for_a_bad_value_names_its_key(
    tmp_path: Path, experiment: str, overrides: list[str], key: str, message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configuration(tmp_path, experiment, *overrides)
    told = str(refused.value)
    assert told.startswith((f"{key} ", f"{key}: "))
    assert message in told
    assert "\n" not in told


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configuration(tmp_path, "compare_calm", "threads=0", "benchmark.rounds=1", "+speedup=[2]")
    assert str(refused.value).count("; ") >= 2
    assert all(f"{key} " in str(refused.value) for key in ("threads", "benchmark.rounds", "speedup"))


@pytest.mark.parametrize("experiment", ["compare_calm", *JOBS])
def test_good_configurations_keep_their_values(tmp_path: Path, experiment: str) -> None:
    config = configuration(tmp_path, experiment)
    assert config.trainer.batch_size == config.plain["trainer"]["batch_size"]
    assert config.benchmark.rounds == 2
    # The values that are written and hashed: an integer stays an integer where a float is expected.
    assert [type(speedup) for speedup in config.speedups] == [float, int]


def test_a_job_refuses_an_experiment_without_its_section(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"throughput is missing or null, and skiplab\.jobs\.compare\.compare needs"
    ):
        configuration(tmp_path, "compare_calm").section("throughput")


# Precedence.


def plain(*overrides: str) -> dict[str, Any]:
    return load(composed("tracking.experiment=test", *overrides)).plain


PRETRAINED = ("backbone=pretrained", "backbone.checkpoint.name=DIR")


@pytest.mark.parametrize("backbone", [("backbone=opt_tiny",), ("backbone=opt_350m",), PRETRAINED])
def test_no_backbone_resets_values_set_by_the_data(backbone: tuple[str, ...]) -> None:
    e2e = plain("experiment=compare_calm", "data=e2e", *backbone)
    assert (e2e["base"]["max_epochs"], e2e["trainer"]["max_epochs"], e2e["trainer"]["weight_decay"]) == (12, 4, 0.1)
    assert e2e["backbone"]["dropout"] == 0.1


def test_a_backbones_defaults_hold_where_the_data_has_none() -> None:
    found = plain("experiment=compare_calm", *PRETRAINED)
    assert (found["base"]["max_epochs"], found["trainer"]["max_epochs"]) == (1, 1)
    e2e = plain("experiment=compare_calm", "data=e2e", *PRETRAINED)
    assert e2e["trainer"]["learning_rate"] == found["trainer"]["learning_rate"] == 2e-5


def test_the_experiment_beats_data_and_backbone() -> None:
    found = plain("experiment=paper_e2e", *PRETRAINED)
    assert (found["base"]["max_epochs"], found["trainer"]["max_epochs"]) == (1, 2)
    smoke = plain("experiment=smoke", "data=e2e")
    assert (smoke["base"]["max_epochs"], smoke["trainer"]["max_epochs"]) == (1, 4)
    assert (
        smoke["backbone"]["num_layers"]
        == plain("experiment=smoke", "backbone=llama_tiny")["backbone"]["num_layers"]
        == 8
    )


def test_an_explicit_value_beats_the_experiment() -> None:
    overrides = ("trainer.max_epochs=7", "base.max_epochs=5", "backbone.dropout=0.3")
    found = plain("experiment=paper_e2e", *overrides, *PRETRAINED)
    assert (found["trainer"]["max_epochs"], found["base"]["max_epochs"], found["backbone"]["dropout"]) == (7, 5, 0.3)
    # In any order, and with any other files chosen.
    assert found == plain(*PRETRAINED, *overrides, "experiment=paper_e2e")


def test_a_group_chosen_on_the_command_line_beats_the_experiments() -> None:
    assert plain("experiment=paper_e2e")["backbone"]["num_layers"] == 24
    assert plain("experiment=paper_e2e", "backbone=opt_6_7b")["backbone"]["num_layers"] == 32


@pytest.mark.parametrize(
    "typed", [r"template.close='\n### Response:\n'", 'template.close="\n### Response:\n"'], ids=["escaped", "real"]
)
def test_newlines_of_a_template_may_be_typed_as_escapes(typed: str) -> None:
    assert plain("experiment=smoke", typed)["template"]["close"] == "\n### Response:\n"


def test_the_store_of_the_environment_holds_unless_the_user_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert plain("experiment=compare_calm")["tracking"]["uri"] == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert plain("experiment=compare_calm")["tracking"]["uri"] == "http://127.0.0.1:1"
    assert plain("experiment=compare_calm", "tracking.uri=sqlite:///x.db")["tracking"]["uri"] == "sqlite:///x.db"
    off = load(composed("experiment=compare_calm", "tracking=none", "tracking.experiment=x"))
    assert off.tracking.uri is None
    assert isinstance(open_tracker(off), NoTracker)
