"""Other systems run the same model."""

from pathlib import Path

import pytest
import torch

from skiplab.backbones.shapes import LlamaSpec
from skiplab.benchmarking.llama_cpp import LlamaCpp, write_gguf
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


def test_llama_cpp_gives_the_full_models_tokens_and_a_time_per_token(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the extra bench is not installed")
    backbone = LlamaSpec(
        num_layers=4, hidden_size=64, num_heads=4, num_kv_heads=2, max_positions=64, ffn_size=96
    ).build(vocab_size=96, pad_id=PAD, bos_id=1, eos_id=2)
    rows = [[5, 9, 30, 31], [40, 7, 8, 90], [3, 3, 50, 6]]
    write_gguf(backbone, tmp_path / "model.gguf", "F16")
    engine, clock = LlamaCpp(tmp_path / "model.gguf", rows=3, positions=16, threads=1), Clock(torch.device("cpu"))
    expected = decode(backbone, FullDepth(4), rows, max_new_tokens=6, eos_id=None, pad_id=PAD).sequences()
    # Twice: the second batch starts from an empty cache.
    for _ in range(2):
        assert engine.decode(rows, 6, lambda: None) == expected
    engine(rows, [6] * 3, PAD, clock)
    assert len(clock.times()) == 6


@pytest.mark.parametrize(
    ("layout", "message"), [("pre_norm", "Llama family, not 'opt'"), ("llama", "multiple of 32, got 24")]
)
def test_what_llama_cpp_cannot_read_is_not_written(tmp_path: Path, layout: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_gguf(tiny_backbone(layout), tmp_path / "model.gguf", "F16")
