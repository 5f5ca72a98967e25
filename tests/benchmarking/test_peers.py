"""Other systems run the same model."""

from pathlib import Path

import pytest
import torch

from skiplab.benchmarking.peers import ctranslate2_system
from skiplab.benchmarking.timing import Clock
from skiplab.engine.decode import decode
from skiplab.engine.policy import FullDepth
from tests.tiny import PAD, prompts, tiny_backbone


def test_ctranslate2_gives_the_full_models_tokens_and_a_time_per_token(tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2", reason="the extra bench is not installed")
    backbone, rows = tiny_backbone(), [(prompt * 3)[:3] for prompt in prompts(3)]
    clock = Clock(torch.device("cpu"))
    clock.read()
    ctranslate2_system(backbone, tmp_path / "model", "float32", threads=1)(rows, [6] * 3, PAD, clock)
    assert len(clock.times()) == 1 + 6
    generator = ctranslate2.Generator(str(tmp_path / "model"), compute_type="float32")
    outputs = generator.generate_batch(
        [[str(token) for token in row] for row in rows],
        max_length=6,
        min_length=6,
        beam_size=1,
        include_prompt_in_result=False,
        end_token=[],
    )
    expected = decode(backbone, FullDepth(6), rows, max_new_tokens=6, eos_id=None, pad_id=PAD).sequences()
    assert [[int(token) for token in output.sequences[0]] for output in outputs] == expected
