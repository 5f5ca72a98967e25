"""Attention of few queries on a CPU, for models whose query heads share key/value heads.

transformers and torch repeat the keys and values of each group of query heads, unless there is one query and a mask,
and torch's bfloat16 product of a single query is slow. With the queries of a group as the rows of one product, nothing
is repeated, and a decode step's attention takes a quarter to a half of the time.

Shapes: B rows, Q query heads, H key/value heads, G query heads per key/value head, T query positions, S key positions,
K head size.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "skiplab_grouped"
# With more queries products are fast anyway, and the copies of masks cost more than they save.
_FEW = 16


def group_queries(model: PreTrainedModel) -> None:
    """Make a model's layers compute attention so.

    They can then be called one by one, but not the model as a whole: transformers makes no masks for it.
    """
    config: Any = model.config
    if getattr(config, "num_key_value_heads", config.num_attention_heads) < config.num_attention_heads:
        model.set_attn_implementation(_NAME)


def attention(
    module: nn.Module,
    query_BQTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    mask_B1TS: Tensor | None,
    *,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention (B, T, Q, K), with transformers' interface; without a mask it is causal."""
    rows, heads, columns, size = query_BQTK.shape
    groups = key_BHSK.shape[1]
    if columns > _FEW or (mask_B1TS is None and columns > 1):
        return sdpa_attention_forward(module, query_BQTK, key_BHSK, value_BHSK, mask_B1TS, scaling=scaling, **options)
    if mask_B1TS is not None and columns > 1:
        mask_B1TS = mask_B1TS.repeat(1, 1, heads // groups, 1)
    grouped = query_BQTK.reshape(rows, groups, -1, size)
    out = F.scaled_dot_product_attention(grouped, key_BHSK, value_BHSK, attn_mask=mask_B1TS, scale=scaling)
    return out.reshape(rows, heads, columns, size).transpose(1, 2), None


AttentionInterface.register(_NAME, attention)
