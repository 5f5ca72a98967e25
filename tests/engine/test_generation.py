"""Generation options: conversion to and from the library's, refused options, and the same effect as in the library."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import left_pad
from skiplab.engine.decode import decode_request
from skiplab.engine.generation import GenerationOptions, own_generation_config_aside
from skiplab.engine.policy import FullDepth
from skiplab.engine.request import Decoding
from tests.tiny import EOS, LAYOUTS, PAD, prompts, tiny_backbone

LIMIT = 20


def decoding(options: GenerationOptions, **own: Any) -> Decoding:
    return Decoding(options, max_new_tokens=LIMIT, eos_id=EOS, pad_id=PAD, **own)


def sequences(backbone: Backbone, batch: list[list[int]], options: GenerationOptions, **own: Any) -> list[list[int]]:
    (request,) = decoding(options, **own).requests(batch, batch_size=1000)
    return decode_request(backbone, FullDepth(6), request).sequences()


def of_the_library(backbone: Backbone, batch: list[list[int]], config: GenerationConfig, **own: Any) -> list[list[int]]:
    ids_BP, mask_BP = left_pad(batch, PAD)
    config.update(max_new_tokens=LIMIT, pad_token_id=PAD, eos_token_id=config.eos_token_id or EOS)
    with own_generation_config_aside(backbone.model):
        out_BT = backbone.model.generate(  # type: ignore[operator]
            ids_BP, attention_mask=mask_BP.long(), generation_config=config, **own
        )
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    rows = out_BT[:, ids_BP.shape[1] :].tolist()
    cut = [next((at for at, token in enumerate(row) if token in ends), LIMIT) + 1 for row in rows]
    return [row[:length] for row, length in zip(rows, cut, strict=True)]


GREEDY: dict[str, dict[str, Any]] = {
    "plain": {},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[5], [11], *([a, b] for a in range(3, 48) for b in range(3, 48, 2))]},
    "min_new_tokens": {"min_new_tokens": 9},
    "suppress_tokens": {"suppress_tokens": list(range(10, 30))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(3, 30))},
    "eos_token_id": {"eos_token_id": [EOS, 7, 12, 20, 33]},
    "all": {
        "repetition_penalty": 0.8, "no_repeat_ngram_size": 3, "bad_words_ids": [[5]], "min_new_tokens": 4,
        "suppress_tokens": [9], "eos_token_id": [EOS, 7, 12, 20, 33],
    },
}  # fmt: skip
SAMPLING: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.6, "top_k": 0},
    "top_k": {"top_k": 7},
    "top_k's default": {},
    "top_p": {"top_p": 0.7, "temperature": 0.3, "top_k": 0},
    "min_p": {"min_p": 0.1, "top_k": 0},
    "typical_p": {"typical_p": 0.6, "top_k": 0},
    "cutoffs": {"epsilon_cutoff": 0.02, "eta_cutoff": 0.05, "top_k": 0},
    "with penalties": {"temperature": 1.5, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "top_p": 0.9},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", GREEDY.values(), ids=GREEDY)
def test_greedy_options_give_the_librarys_tokens(layout: str, options: dict[str, Any]) -> None:
    backbone, batch = tiny_backbone(layout), prompts(6, seed=5)
    expected = of_the_library(backbone, batch, GenerationConfig(**options))
    assert sequences(backbone, batch, GenerationOptions.of(**options)) == expected
    if options and layout == "pre_norm":
        assert expected != of_the_library(backbone, batch, GenerationConfig())


def test_every_greedy_option_is_compared() -> None:
    compared = {name for one in (*GREEDY.values(), *SAMPLING.values()) for name in one}
    others = {"max_new_tokens", "do_sample", "stop_strings", "seed", "num_return_sequences"}
    assert compared | others == set(vars(GenerationOptions()))


@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING)
def test_sampling_draws_from_the_librarys_distribution(options: dict[str, Any]) -> None:
    """Our scores equal those that `generate` reports at each step for the tokens that it drew."""
    backbone, batch = tiny_backbone(), prompts(4, seed=2)
    ids_BP, mask_BP = left_pad(batch, PAD)
    torch.manual_seed(0)
    with own_generation_config_aside(backbone.model):
        theirs = backbone.model.generate(  # type: ignore[operator]
            ids_BP, attention_mask=mask_BP.long(), do_sample=True, max_new_tokens=6, eos_token_id=VOCABULARY_END,
            pad_token_id=PAD, return_dict_in_generate=True, output_scores=True, output_logits=True, **options,
        )  # fmt: skip
    (request,) = decoding(GenerationOptions.of(do_sample=True, **options)).requests(batch, batch_size=4)
    assert request.choosing is not None
    for step, (scores_BV, logits_BV) in enumerate(zip(theirs.scores, theirs.logits, strict=True)):
        ids_BT = theirs.sequences[:, : ids_BP.shape[1] + step]
        torch.testing.assert_close(request.choosing.processors(ids_BT, logits_BV), scores_BV)


VOCABULARY_END = 48


def test_the_callers_processors_and_criteria_get_what_generate_gives_them() -> None:
    backbone, batch = tiny_backbone(), prompts(5, seed=5)

    class Seen(LogitsProcessor):
        def __init__(self) -> None:
            self.ids: list[list[list[int]]] = []

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self.ids.append(input_ids.tolist())
            return scores.roll(3, -1)

    class AfterSeven(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **rest: Any) -> Any:
            return input_ids[:, -1] % 7 == 3

    theirs, ours = Seen(), Seen()
    expected = of_the_library(
        backbone, batch, GenerationConfig(), logits_processor=[theirs], stopping_criteria=[AfterSeven()]
    )
    actual = sequences(backbone, batch, GenerationOptions(), processors=[ours], criteria=[AfterSeven()])
    assert [row + [PAD] * (len(expected[0]) - len(row)) for row in actual] == expected
    assert ours.ids == theirs.ids
    assert len({len(row) for row in actual}) > 1


def test_a_generation_config_converts_and_back() -> None:
    options = GenerationOptions.of(
        do_sample=True, top_p=0.7, temperature=0.3, top_k=0, eos_token_id=[2, 5], bad_words_ids=[[3, 4]],
        stop_strings="end", num_return_sequences=3, max_new_tokens=9,
    )  # fmt: skip
    config = options.to_config()
    assert (config.top_p, config.top_k, config.eos_token_id, config.stop_strings) == (0.7, 0, [2, 5], ["end"])
    assert GenerationOptions.from_config(config) == options
    assert GenerationOptions.from_config(GenerationConfig()) == GenerationOptions()
    assert GenerationOptions.from_config(GenerationOptions().to_config()) == GenerationOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, "num_beams is not supported, got 4; num_beams=1 turns it off"),
        ({"assistant_early_exit": 3}, "assistant_early_exit is not supported, got 3; leave it out"),
        ({"temprature": 0.4}, "temprature is not a generation option; did you mean temperature?"),
        ({"temperature": 0.4}, "temperature has an effect only in sampling: add do_sample=True"),
        ({"do_sample": True, "temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"do_sample": True, "temperature": "hot"}, "temperature must be a number above 0, got 'hot'"),
        ({"do_sample": True, "top_p": 1.2}, "top_p must be a number above 0 and at most 1, got 1.2"),
        ({"do_sample": True, "top_k": 2.5}, "top_k must be an integer of at least 0, got 2.5"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"max_new_tokens": True}, "max_new_tokens must be an integer"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "min_new_tokens=4 exceeds max_new_tokens=3"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 in greedy decoding would repeat one output"),
        ({"eos_token_id": "x"}, "eos_token_id must be token ids"),
        ({"stop_strings": [""]}, "stop_strings must be texts that are not empty"),
        ({"bad_words_ids": [[]]}, "bad_words_ids must be lists of token ids"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"do_sample": "yes"}, "do_sample must be true or false"),
    ],
)
def test_unsupported_and_invalid_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationOptions.of(**options)


def test_an_unsupported_option_of_a_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="num_beams is not supported, got 3"):
        GenerationOptions.from_config(GenerationConfig(num_beams=3))
