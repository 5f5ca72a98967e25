"""The `Backbone` class of each model type."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from skiplab.backbones.llama import LlamaBackbone
from skiplab.backbones.opt import OPTBackbone
from skiplab.engine.backbone import Backbone

ADAPTERS: dict[str, Any] = {
    "opt": OPTBackbone,
    "llama": LlamaBackbone,
    "mistral": LlamaBackbone,
    "qwen2": LlamaBackbone,
    "qwen3": LlamaBackbone,
}
# Submodules that `LlamaBackbone` calls.
_PARTS = (
    "lm_head", "model.embed_tokens", "model.rotary_emb", "model.norm", "model.layers.0.input_layernorm",
    "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj",
)  # fmt: skip


def adapt(model: PreTrainedModel) -> Backbone:
    """The `Backbone` for a Hugging Face causal language model.

    Raises:
        ValueError: no `Backbone` class supports this model; the message says what is missing.
    """
    check_type(model.config.model_type, model)
    return ADAPTERS[model.config.model_type](model)


def check_type(model_type: str, model: nn.Module | None = None) -> None:
    """Refuse a model type that no `Backbone` class supports."""
    if model_type in ADAPTERS:
        return
    lacking = [] if model is None else [part for part in _PARTS if not _has(model, part)]
    detail = f"; compared with the Llama family it lacks {', '.join(lacking)}" if lacking else ""
    raise ValueError(
        f"skiplab cannot run the layers of a {model_type!r} model; supported: {', '.join(ADAPTERS)}{detail}. To add a "
        "type, list a subclass of skiplab.engine.backbone.Backbone in skiplab/backbones/adapters.py"
    )


def _has(model: nn.Module, part: str) -> bool:
    try:
        model.get_submodule(part)
    except AttributeError:
        return False
    return True
