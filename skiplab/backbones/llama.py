"""The Llama family: RMSNorm, rotary positions, grouped key/value heads (Llama, Mistral, Qwen2, Qwen3, SmolLM).

Shapes: B rows, T positions, D hidden size, H key/value heads, K head size or reduced vocabulary.
"""

from collections.abc import Callable, Iterable
from typing import Any, final

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from skiplab.engine.backbone import Backbone, Context, Rotary, cache_keyword
from skiplab.engine.packed_linear import weight_rows

# RoPE types whose angles depend only on the position, not on the sequence length.
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@final
class LlamaBackbone(Backbone):
    """The family's layers.

    Raises:
        ValueError: the configuration needs a feature that this class lacks.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        _check(model.config)
        model.set_attn_implementation("sdpa")
        config: Any = model.config
        self.model = model
        self.num_layers = config.num_hidden_layers
        self.max_positions = config.max_position_embeddings
        self.hidden_size = config.hidden_size
        self.kv_heads = config.num_key_value_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._decoder: Any = model.model
        self._cache_keyword = cache_keyword(self._decoder.layers[0])

    @property
    def layers(self) -> nn.ModuleList:
        return self._decoder.layers

    def embed(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        return self._decoder.embed_tokens(ids_BT)

    def rotary(self, position_BT: Tensor) -> Rotary:
        return Rotary(*self._decoder.rotary_emb(self._decoder.embed_tokens.weight, position_ids=position_BT))

    def layer(self, index: int, h_BTD: Tensor, context: Context) -> Tensor:
        return self.layers[index](
            h_BTD,
            attention_mask=context.mask_B1QS,
            position_embeddings=context.rotary,
            **{self._cache_keyword: context.cache},
        )

    def project_kv(self, index: int, h_BTD: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        assert rotary is not None
        layer: Any = self.layers[index]
        h_BTD, attention = layer.input_layernorm(h_BTD), layer.self_attn
        shape = (*h_BTD.shape[:2], self.kv_heads, self.head_size)
        key_BTHK, value_BTHK = attention.k_proj(h_BTD).view(shape), attention.v_proj(h_BTD).view(shape)
        if (norm := getattr(attention, "k_norm", None)) is not None:
            key_BTHK = norm(key_BTHK)
        key_BHTK = key_BTHK.transpose(1, 2)
        # `project_kv` has no queries.
        _, key_BHTK = apply_rotary_pos_emb(key_BHTK[:, :0], key_BHTK, *rotary)
        return key_BHTK, value_BTHK.transpose(1, 2)

    def head_input(self, h_BTD: Tensor) -> Tensor:
        return self._decoder.norm(h_BTD)

    def head(self, h_BTD: Tensor) -> Tensor:
        return self.model.lm_head(self.head_input(h_BTD))

    def reduced_head(self, ids_K: Tensor) -> Callable[[Tensor], Tensor]:
        weight_KD = weight_rows(self.model.lm_head, ids_K)
        # Local names: the closure must not keep the whole model alive.
        norm = self._decoder.norm
        return lambda h_BTD: F.linear(norm(h_BTD), weight_KD)

    def head_weights(self) -> Iterable[Tensor]:
        return [*self._decoder.norm.parameters(), *self.model.lm_head.parameters()]


def _check(config: Any) -> None:
    layer_types = getattr(config, "layer_types", None)
    sliding = layer_types is None or "sliding_attention" in layer_types
    window = getattr(config, "sliding_window", None) if sliding else None
    if window is not None and window < config.max_position_embeddings:
        raise ValueError(
            f"this {config.model_type} attends within a sliding window of {window} of its "
            f"{config.max_position_embeddings} positions, and skiplab's attention has no window; use a model without "
            f"one, or set max_position_embeddings={window} in its config.json, which the window covers"
        )
    if (kind := config.rope_parameters["rope_type"]) not in _ROPE_TYPES:
        raise ValueError(
            f"this {config.model_type} has rotary positions of type {kind!r}, whose angles change with the sequence's "
            f"length; cached keys are not rotated again, so only {', '.join(_ROPE_TYPES)} are supported"
        )
