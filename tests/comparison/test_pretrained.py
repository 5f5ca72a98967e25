"""A comparison from a checkpoint with its own tokenizer, and the methods that it saves."""

import json
from pathlib import Path

import mlflow
import pytest
import torch
from transformers import AutoModelForCausalLM

from skiplab.backbones.shapes import OPTSpec
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.data.restaurants import Restaurants
from skiplab.data.tokenizers import byte_bpe_tokenizer, first_texts
from skiplab.export.saved_method import load_method
from skiplab.jobs.compare import compare
from tests.comparison.small import small_config

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder as `save_pretrained` makes it, its tokenizer trained on the task."""
    folder = tmp_path / "checkpoint"
    rows = Restaurants(train_size=64, valid_size=16, test_size=16).load()["train"]
    tokenizer = byte_bpe_tokenizer(first_texts(rows), 400)
    torch.manual_seed(0)
    spec = OPTSpec(num_layers=4, hidden_size=16, num_heads=2, max_positions=256, init_std=0.3, vocab_size=410)
    spec.build(vocab_size=400, pad_id=0, bos_id=2, eos_id=1).model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def overrides(checkpoint: Path) -> tuple[str, ...]:
    return (
        "backbone=opt_125m", f"backbone.checkpoint.name={checkpoint}", "backbone.max_positions=256",
        "backbone.vocab_size=410", "method=skipdecode", "speedups=[1.5]", "benchmark.batch_sizes=[]",
        "methods.full.sweep.fine_tune=[false]", "max_new_tokens=96", "template.close=' ='",
    )  # fmt: skip


def test_a_saved_method_gives_the_tokens_of_the_comparison(tmp_path: Path, checkpoint: Path) -> None:
    run = tmp_path / "run"
    config = small_config(tmp_path, *overrides(checkpoint), "save_models=true", "limit=4")
    assert compare(config, run)
    prepared = prepare(config)
    assert prepared.data.encoding.pretrained
    assert prepared.new_backbone().training
    items = prepared.data.items("test")
    assert all(item.prompt_ids[-1] != prepared.data.bos_id for item in items)
    for name in ("full-1x-seed-0", "skipdecode-1.5x-seed-0"):
        outputs = json.loads((run / "settings" / f"{name}.json").read_text())["outputs"]["tokens"]
        method = load_method(run / "models" / name)
        assert method.tokens([item.prompt for item in items]) == outputs
        AutoModelForCausalLM.from_pretrained(run / "models" / name)
    registered = {model.name for model in mlflow.MlflowClient().search_registered_models()}
    start = f"compare_calm-restaurants-{checkpoint.name}"
    assert registered == {f"{start}-full-1x", f"{start}-skipdecode-1.5x"}
    (base,) = (tmp_path / "cache").glob("base-*/config.json")
    model = AutoModelForCausalLM.from_pretrained(base.parent)
    assert not torch.equal(
        model.lm_head.weight, AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).lm_head.weight
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("backbone.checkpoint.name=some/opt",), r"cannot get some/opt from the Hugging Face hub: .*pretrained=false"),
        (("backbone.vocab_size=390",), "vocab_size=390 cannot hold the tokenizer's 400 entries"),
        (("max_new_tokens=250",), "backbone has 256 positions; .* cut the data with template.longest_prompt"),
        (("template.prompt=x",), "template.prompt must hold {prompt} once, got 'x'"),
        (("+template.suffix=x",), "template.suffix is unknown; choose from close, longest_prompt"),
        (("backbone.checkpoint.dtype=int8",), "backbone.checkpoint.dtype must be .*float32.*, got 'int8'"),
        (("save_models=1",), "save_models must be a boolean, got 1"),
    ],
)
def test_impossible_configurations_are_refused_before_training(
    tmp_path: Path, checkpoint: Path, change: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepare(small_config(tmp_path, *overrides(checkpoint), *change))


def test_missing_columns_are_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 40)
    options = ("data=jsonl", f"data.dir={tmp_path}", "data.prompt=question", "data.target=reply")
    with pytest.raises(ConfigurationError, match=r"no column 'reply'; take one of question, answer as data.target"):
        prepare(small_config(tmp_path, *options, task=()))
    with pytest.raises(ConfigurationError, match=r"data.target has no value yet; give it as data.target=VALUE"):
        prepare(small_config(tmp_path, *options[:-1], task=()))


UNTRAINED = ("base.max_epochs=0", "trainer.max_epochs=0", "method=calm")


def test_a_checkpoint_is_compared_untrained(tmp_path: Path, checkpoint: Path) -> None:
    config = small_config(tmp_path, *overrides(checkpoint), *UNTRAINED, "method.confidence=state")
    assert compare(config, tmp_path / "run")
    full, calm = json.loads((tmp_path / "run/results.json").read_text())["rows"]
    assert (full["setting"], calm["setting"]) == ("1x", "state ~1.5x")
    assert not any(key.startswith("train_") for key in calm)
    (weights,) = (tmp_path / "cache").glob("*/model.safetensors")
    kept = AutoModelForCausalLM.from_pretrained(weights.parent).state_dict()
    given = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(kept[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.pretrained=false", "base.max_epochs=0 keeps the base as it is, and its weights are random"),
        ("methods.full.sweep.fine_tune=[true]", "fine_tune=true trains, and passes=0 trains nothing"),
        ("method.confidence=classifier", "classifier ~1.5x has a part of its own that must be trained"),
    ],
)
def test_what_must_be_trained_is_refused_untrained(
    tmp_path: Path, checkpoint: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepare(small_config(tmp_path, *overrides(checkpoint), *UNTRAINED, override))
