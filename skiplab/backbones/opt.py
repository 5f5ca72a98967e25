"""OPT (arXiv 2205.01068) in both layouts: pre-norm, and OPT-350m's post-norm with `project_in` and `project_out`.

Shapes: B rows, T positions, D hidden size, K reduced vocabulary.
"""

from collections.abc import Callable, Iterable
from typing import Any, final

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import OPTForCausalLM

from skiplab.engine.backbone import Backbone, Context, Rotary, cache_keyword
from skiplab.engine.packed_linear import weight_rows


@final
class OPTBackbone(Backbone):
    """OPT's layers."""

    def __init__(self, model: OPTForCausalLM) -> None:
        super().__init__()
        model.set_attn_implementation("sdpa")
        config = model.config
        self.model = model
        self.num_layers = config.num_hidden_layers
        self.max_positions = config.max_position_embeddings
        self.hidden_size = config.hidden_size
        self.kv_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self._decoder = model.model.decoder
        self._cache_keyword = cache_keyword(self._decoder.layers[0])

    @property
    def layers(self) -> nn.ModuleList:
        return self._decoder.layers

    def embed(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        decoder = self._decoder
        h_BTD = decoder.embed_tokens(ids_BT)
        if decoder.project_in is not None:
            h_BTD = decoder.project_in(h_BTD)
        return h_BTD + decoder.embed_positions(None, position_ids=position_BT)

    def rotary(self, position_BT: Tensor) -> None:
        return None

    def layer(self, index: int, h_BTD: Tensor, context: Context) -> Tensor:
        cache = {self._cache_keyword: context.cache}
        return self.layers[index](h_BTD, attention_mask=context.mask_B1QS, **cache)

    def project_kv(self, index: int, h_BTD: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        layer: Any = self.layers[index]
        if layer.do_layer_norm_before:
            h_BTD = layer.self_attn_layer_norm(h_BTD)
        shape = (*h_BTD.shape[:2], self.kv_heads, self.head_size)
        key, value = layer.self_attn.k_proj(h_BTD), layer.self_attn.v_proj(h_BTD)
        return key.view(shape).transpose(1, 2), value.view(shape).transpose(1, 2)

    def head_input(self, h_BTD: Tensor) -> Tensor:
        return _output(h_BTD, self._decoder.final_layer_norm, self._decoder.project_out)

    def head(self, h_BTD: Tensor) -> Tensor:
        return self.model.lm_head(self.head_input(h_BTD))

    def reduced_head(self, ids_K: Tensor) -> Callable[[Tensor], Tensor]:
        weight_KD = weight_rows(self.model.lm_head, ids_K)
        # Local names: the closure must not keep the whole model alive.
        norm, project_out = self._decoder.final_layer_norm, self._decoder.project_out
        return lambda h_BTD: F.linear(_output(h_BTD, norm, project_out), weight_KD)

    def head_weights(self) -> Iterable[Tensor]:
        decoder = self._decoder
        parts = (decoder.final_layer_norm, decoder.project_out, self.model.lm_head)
        return [weight for part in parts if part is not None for weight in part.parameters()]


def _output(h_BTD: Tensor, norm: nn.Module | None, project_out: nn.Module | None) -> Tensor:
    """What the language-model head takes."""
    if norm is not None:
        h_BTD = norm(h_BTD)
    return h_BTD if project_out is None else project_out(h_BTD)
