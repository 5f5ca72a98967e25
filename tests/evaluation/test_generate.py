"""Outputs of a split do not depend on a checkpoint's own generation configuration."""

from typing import Any

import pytest
from transformers import GenerationConfig

from skiplab.benchmarking.hf_systems import hf_generate_system
from skiplab.benchmarking.timing import Clock
from skiplab.engine.policy import FullDepth
from skiplab.evaluation.generate import generate, generate_hf
from tests.export.test_saved_method import DATA, backbone


@pytest.mark.parametrize(
    "options",
    [{}, {"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}, {"suppress_tokens": list(range(5, 60))}],
    ids=["none", "repetition_penalty", "no_repeat_ngram_size", "suppress_tokens"],
)
def test_hugging_faces_rows_are_greedy_whatever_the_checkpoint_configures(options: dict[str, Any]) -> None:
    engine, items = backbone(), DATA.items("test")
    engine.model.generation_config = own = GenerationConfig(pad_token_id=DATA.pad_id, **options)  # type: ignore[assignment]
    expected = generate(engine, FullDepth(6), DATA, items, batch_size=4)
    assert generate_hf(engine, DATA, items, batch_size=4).tokens == expected.tokens
    assert engine.model.generation_config is own


def test_hugging_faces_timed_rows_are_greedy_too() -> None:
    engine = backbone()
    engine.model.generation_config = GenerationConfig(num_beams=2, do_sample=True)  # type: ignore[assignment]
    clock = Clock(engine.device)
    hf_generate_system(engine)([[5, 6, 7]], [4], DATA.pad_id, clock)
    assert len(clock._marks) == 4
