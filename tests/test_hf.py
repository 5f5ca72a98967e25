"""Saved methods with `generate` of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    StoppingCriteria,
    TextIteratorStreamer,
    TextStreamer,
)

import skiplab.hf
from baselines.calm import CALM
from skiplab.engine.batch import left_pad
from skiplab.export.saved_method import load_method
from skiplab.methods.full import Full
from tests.export.test_method import METHODS
from tests.export.test_saved_method import DATA, PROMPTS, SHAPES, saved, setup

CALLABLE: dict[str, Any] = {"custom_generate": skiplab.hf.generate}


def inputs(prompts: list[str] = PROMPTS) -> dict[str, Any]:
    ids_BP, mask_BP = left_pad(DATA.encoding.prompts(prompts), DATA.pad_id)
    return {"inputs": ids_BP, "attention_mask": mask_BP.long(), "pad_token_id": DATA.pad_id}


def rows(sequences: torch.Tensor, columns: int) -> list[list[int]]:
    out = sequences[:, columns:].tolist()
    return [row[: row.index(DATA.eos_id) + 1] if DATA.eos_id in row else row for row in out]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    cls, params = METHODS["skip"]
    saved(folder, cls(setup(), **params), **params)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_generate_gives_the_methods_tokens(tmp_path: Path, family: str, name: str) -> None:
    cls, params = METHODS[name]
    saved(tmp_path, cls(setup(family), **params), **params)
    expected = load_method(tmp_path).tokens(PROMPTS)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    given = inputs()
    for custom in (
        {"custom_generate": skiplab.hf.generate},
        {"custom_generate": str(tmp_path), "trust_remote_code": True},
    ):
        out = model.generate(**given, max_new_tokens=24, **custom)
        assert rows(out, given["inputs"].shape[1]) == expected
    trusted: Any = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert rows(trusted.generate(**given, max_new_tokens=24), given["inputs"].shape[1]) == expected
    assert rows(model.generate(**given, max_new_tokens=24), given["inputs"].shape[1]) != expected


def test_a_classifier_is_found_in_the_folder(tmp_path: Path) -> None:
    options = {"threshold": 0.5, "confidence": "classifier"}
    module = CALM(setup(), **options)
    for probe in module.probes:
        torch.nn.init.normal_(probe.linear.weight, std=0.5)  # type: ignore[union-attr]
        probe.on_train_end()
    saved(tmp_path, module.eval(), **options)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    out = model.generate(**inputs(), max_new_tokens=24, custom_generate=skiplab.hf.generate)
    assert rows(out, inputs()["inputs"].shape[1]) == load_method(tmp_path).tokens(PROMPTS)


OPTIONS: dict[str, dict[str, Any]] = {
    "penalties": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
    "a configuration": {"generation_config": GenerationConfig(max_new_tokens=9, repetition_penalty=1.2)},
    "what skiplab does not name": {"exponential_decay_length_penalty": (3, 1.5), "sequence_bias": {(5,): 2.0}},
    "one row": {},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("family", SHAPES)
def test_at_full_depth_all_options_and_outputs_are_the_librarys(
    tmp_path: Path, options: dict[str, Any], family: str
) -> None:
    saved(tmp_path, Full(setup(family)))
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    given = inputs(PROMPTS if options else PROMPTS[:1])
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    if "generation_config" not in options:
        options = {**options, **wanted, "max_new_tokens": 12}
    else:
        options["generation_config"].update(**wanted, pad_token_id=given.pop("pad_token_id"))
    expected = model.generate(**given, **options)
    actual = model.generate(**given, **options, custom_generate=skiplab.hf.generate)
    assert torch.equal(actual.sequences, expected.sequences)
    columns = given["inputs"].shape[1]
    lengths = [len(row) for row in rows(actual.sequences, columns)]
    for name in ("scores", "logits"):
        for step, (mine, theirs) in enumerate(zip(getattr(actual, name), getattr(expected, name), strict=True)):
            live = [row for row, length in enumerate(lengths) if length > step]
            torch.testing.assert_close(mine[live], theirs[live], atol=1e-4, rtol=1e-4)


def test_sampling_repeats_with_torchs_seed(model: Any) -> None:
    options = {
        "do_sample": True,
        "num_return_sequences": 3,
        "max_new_tokens": 10,
        "custom_generate": skiplab.hf.generate,
    }
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model.generate(**inputs(PROMPTS[:2]), **options))
    assert found[0].shape[0] == 6
    assert torch.equal(found[0], found[1])
    assert found[0].shape != found[2].shape or not torch.equal(found[0], found[2])
    assert len({tuple(row) for row in found[0].tolist()}) > 2


@pytest.mark.parametrize("trusted", [False, True])
def test_streamers_get_every_token_and_the_end(
    model: Any, folder: Path, trusted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    custom: dict[str, Any] = (
        {"custom_generate": str(folder), "trust_remote_code": True}
        if trusted
        else {"custom_generate": skiplab.hf.generate}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=1)
    model.generate(**inputs(PROMPTS[:1]), max_new_tokens=24, streamer=streamer, **custom)
    expected = load_method(folder).generate(PROMPTS[0])
    assert "".join(streamer).strip() == expected
    printer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    model.generate(**inputs(PROMPTS[:1]), max_new_tokens=24, streamer=printer, **custom)
    assert capsys.readouterr().out.strip() == expected


def test_processors_criteria_and_stop_strings(model: Any, folder: Path) -> None:
    class Shift(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return scores.roll(1, -1)

    class AtMost(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **rest: Any) -> Any:
            return torch.full((len(input_ids),), input_ids.shape[1] >= given["inputs"].shape[1] + 4)

    given = inputs()
    custom = {"custom_generate": skiplab.hf.generate, "max_new_tokens": 24}
    plain = model.generate(**given, **custom)
    shifted = model.generate(**given, **custom, logits_processor=[Shift()], stopping_criteria=[AtMost()])
    assert shifted.shape[1] == given["inputs"].shape[1] + 4
    assert not torch.equal(shifted, plain[:, : shifted.shape[1]])
    # With the function in the folder, since `generate` does not pass tokenizers to a callable.
    word = load_method(folder).generate(PROMPTS[0]).split()[2]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stopped = model.generate(
        **inputs(PROMPTS[:1]), max_new_tokens=24, stop_strings=[word], tokenizer=tokenizer, custom_generate=str(folder),
        trust_remote_code=True,
    )  # fmt: skip
    assert word in tokenizer.decode(stopped[0, inputs(PROMPTS[:1])["inputs"].shape[1] :])
    assert stopped.shape[1] < plain.shape[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "does not support num_beams=2"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "does not support output_hidden_states=True"),
        ({"guidance_scale": 2.0}, "does not support guidance_scale=2.0"),
    ],
)
def test_unsupported_options_are_refused(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs(), max_new_tokens=5, custom_generate=skiplab.hf.generate, **options)


def test_prompts_padded_on_the_right_and_other_models_are_refused(model: Any) -> None:
    given = inputs()
    given["attention_mask"] = given["attention_mask"].flip(1)
    with pytest.raises(ValueError, match="padded on the left"):
        model.generate(**given, max_new_tokens=5, custom_generate=skiplab.hf.generate)
    plain: Any = setup().backbone.model
    with pytest.raises(ValueError, match="not a saved method"):
        plain.generate(**inputs(), max_new_tokens=5, custom_generate=skiplab.hf.generate)


def test_the_folder_describes_the_method(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["skiplab"]["setting"] == "2x"
    assert "at full depth, unless it is given custom_generate=skiplab.hf.generate" in config["skiplab"]["note"]
    assert (folder / "custom_generate" / "requirements.txt").read_text().startswith("skiplab>=")
    # A model trained from these weights is not this method.
    assert not hasattr(load_method(folder).backbone.model.config, "skiplab")


def test_plain_generate_of_a_loaded_method_warns_once(folder: Path) -> None:
    loaded: Any = load_method(folder).backbone.model
    with pytest.warns(UserWarning, match="trained for the schedule 2x .* full depth"):
        loaded.generate(**inputs(), max_new_tokens=2)
    loaded.generate(**inputs(), max_new_tokens=2)
