"""The adapter for each model family."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig

from skiplab.backbones.adapters import adapt
from skiplab.backbones.llama import LlamaBackbone
from skiplab.backbones.opt import OPTBackbone
from tests.tiny import tiny_backbone


def test_each_family_has_its_adapter() -> None:
    assert isinstance(adapt(tiny_backbone("post_norm").model), OPTBackbone)
    assert isinstance(adapt(tiny_backbone("llama").model), LlamaBackbone)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9),
            "'gpt2' model; supported: opt, llama, .* lacks .*rotary_emb",
        ),
        (
            GPTNeoXConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=9),
            "'gpt_neox'.* lacks model.embed_tokens",
        ),
    ],
    ids=["gpt2", "gpt_neox"],
)
def test_an_unsupported_model_is_refused_with_what_it_lacks(config: object, message: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match=message):
        adapt(model)
