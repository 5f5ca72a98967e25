"""Read a chunk of the prompts of neighbouring rows of the cache.

Shapes: R rows, T new positions, S key positions, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.kv_cache import KVCache, Place
from skiplab.schedules.exit_schedule import LayerPlan


def read_chunk(
    backbone: Backbone, cache: KVCache, place: Place, ids: Sequence[Sequence[int]], plan: LayerPlan
) -> Tensor:
    """Run the layers on prompt tokens: their states (R, T, D).

    Args:
        place: the rows, and the first new column, which must be the same for all.
        ids: the next tokens per row. Shorter rows are padded on the right; states, keys and values there have no
            meaning, and decode steps mask and overwrite them.
    """
    assert isinstance(place.column, int)
    start, width, device = place.column, max(map(len, ids)), backbone.device
    ids_RT = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in ids], device=device)
    position_RT = torch.arange(start, start + width, device=device).expand(len(ids), width)
    context = Context(_causal(start, width, backbone) if start else None, cache, backbone.rotary(position_RT))
    cache.seek(place)
    h_RTD = backbone.embed(ids_RT, position_RT)
    for layer in plan:
        h_RTD = backbone.layer(layer, h_RTD, context)
    return h_RTD


def _causal(start: int, width: int, backbone: Backbone) -> Tensor:
    """Additive mask (1, 1, T, S): each of the new positions attends to itself and all before it."""
    hidden_TS = torch.ones(width, start + width, dtype=torch.bool, device=backbone.device).triu(start + 1)
    return torch.zeros_like(hidden_TS, dtype=backbone.dtype).masked_fill_(hidden_TS, -torch.inf)[None, None]
