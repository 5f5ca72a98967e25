"""Attention for training in low precision on a CPU.

On a CPU, torch's fused attention is optimised for inference: its backward pass in bfloat16 takes four times as long as
plain matrix products in float32 (`docs/performance.md`), which are also more accurate.

Shapes: B rows, Q query heads, H key/value heads, G query heads per key/value head, T query positions, S key positions,
K head size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

_NAME = "skiplab_float32"


@contextmanager
def float32_attention(model: PreTrainedModel) -> Iterator[None]:
    """Makes the layers compute attention in float32, whatever the precision of the rest; without a mask, only without a
    KV cache."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before or "sdpa")


def attention(
    module: nn.Module,
    query_BQTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    mask_B1TS: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention (B, T, Q, K) in float32, with transformers' interface; without a mask it is causal."""
    rows, heads, columns, size = query_BQTK.shape
    groups, seen = key_BHSK.shape[1:3]
    with torch.autocast(query_BQTK.device.type, enabled=False):
        grouped = (rows, groups, heads // groups * columns, size)
        query, key, value = query_BQTK.float().reshape(grouped), key_BHSK.float(), value_BHSK.float()
        score = (query * (size**-0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
        score_BHGTS = score.view(rows, groups, -1, columns, seen) + _mask(mask_B1TS, score)
        share_BHGTS = F.dropout(score_BHGTS.softmax(-1), dropout)
        out = share_BHGTS.view(rows, groups, -1, seen) @ value
        return out.view(rows, heads, columns, size).transpose(1, 2).to(value_BHSK.dtype), None


def _mask(mask_B1TS: Tensor | None, score: Tensor) -> Tensor:
    """Additive mask that fits scores (B, H, G, T, S)."""
    if mask_B1TS is not None:
        return mask_B1TS[:, :, None].to(score.dtype)
    columns = score.shape[-1]
    return score.new_full((columns, columns), -torch.inf).triu(1)


AttentionInterface.register(_NAME, attention)
