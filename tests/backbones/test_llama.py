"""The models of the Llama family against Hugging Face, and what their adapter refuses."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from skiplab.backbones.adapters import adapt
from skiplab.backbones.shapes import LlamaSpec
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import left_pad
from skiplab.engine.decode import decode
from skiplab.engine.parallel_forward import layer_states
from skiplab.engine.policy import BatchPolicy, FullDepth, Scheduled
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.test_conformance import check_parallel_forward, check_rows_alone
from tests.tiny import EOS, PAD, VOCABULARY, CoordinateExit, prompts, tiny_backbone

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": 64, "initializer_range": 0.3,
    "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
MEMBERS: dict[str, Any] = {
    "qwen2 with biases": lambda: Qwen2Config(**SIZES),
    "qwen3 with normed queries and keys, wide heads": lambda: Qwen3Config(**SIZES, head_dim=8),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
    "mistral whose window covers all": lambda: MistralConfig(**SIZES, sliding_window=64),
    "llama 3.1's positions": lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "untied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=False),
}


def member(name: str) -> Backbone:
    torch.manual_seed(0)
    backbone = adapt(AutoModelForCausalLM.from_config(MEMBERS[name]()).eval())
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return backbone


@pytest.mark.parametrize("name", MEMBERS)
@torch.inference_mode()
def test_each_model_gives_hugging_faces_logits_and_greedy_tokens(name: str) -> None:
    backbone, rows = member(name), prompts(6, seed=5)
    ids, mask = left_pad(rows, PAD)
    *_, h_BTD = layer_states(backbone, ids, mask)
    expected = backbone.model(ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(backbone.head(h_BTD)[mask], expected[mask], atol=1e-5, rtol=1e-5)
    out_BT = backbone.model.generate(  # type: ignore[operator]
        ids, attention_mask=mask.long(), max_new_tokens=30, do_sample=False, eos_token_id=EOS, pad_token_id=PAD
    )[:, ids.shape[1] :]
    greedy = [row[: row.index(EOS) + 1] if EOS in row else row for row in out_BT.tolist()]
    result = decode(backbone, FullDepth(6), rows, max_new_tokens=30, eos_id=EOS, pad_id=PAD)
    assert result.sequences() == greedy


@pytest.mark.parametrize("name", ["qwen2 with biases", "qwen3 with normed queries and keys, wide heads"])
@pytest.mark.parametrize("batch_policy", ["freeze", "min", "compact"])
def test_deferred_keys_equal_those_of_the_layers(name: str, batch_policy: BatchPolicy) -> None:
    backbone = member(name)
    for bound in (-1.0, 0.5, 2.0):
        policy = CoordinateExit(bound, batch_policy=batch_policy)
        check_parallel_forward(backbone, policy, prompts(4))
        if batch_policy != "min":
            check_rows_alone(backbone, policy, prompts(4))


@pytest.mark.parametrize("name", ["qwen2 with biases", "qwen3 with normed queries and keys, wide heads"])
def test_each_model_decodes_under_a_schedule(name: str) -> None:
    schedule = ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8)
    check_parallel_forward(member(name), Scheduled(schedule, "skip"), prompts(4))


def test_positions_are_rotated_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, calls = tiny_backbone("llama"), []
    rotate = backbone.rotary
    monkeypatch.setattr(backbone, "rotary", lambda position: calls.append(position.shape) or rotate(position))
    decode(backbone, CoordinateExit(0.5), [[5, 6, 7], [8]], max_new_tokens=6, eos_id=None, pad_id=PAD)
    # And once more for the positions of all deferred keys.
    assert sorted(calls) == sorted([(2, 3), *[(2, 1)] * 5, (1, 8)])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: MistralConfig(**SIZES, sliding_window=16), "mistral attends within a sliding window of 16 of its 64"),
        (
            lambda: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=3),
            "set max_position_embeddings=16",
        ),
        (
            lambda: LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "rotary positions of type 'dynamic'",
        ),
    ],
)
def test_unsupported_configurations_are_refused(config: Any, message: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config())
    with pytest.raises(ValueError, match=message):
        adapt(model)


def test_an_unused_sliding_window_is_accepted() -> None:
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=6)
    adapt(AutoModelForCausalLM.from_config(config))


def test_key_value_heads_are_grouped() -> None:
    backbone = tiny_backbone("llama")
    assert (backbone.kv_heads, backbone.head_size) == (3, 4)
    with pytest.raises(ValueError, match="num_heads must be a multiple of num_kv_heads, got 6 and 4"):
        LlamaSpec(num_layers=2, hidden_size=24, num_heads=6, num_kv_heads=4, max_positions=8)
