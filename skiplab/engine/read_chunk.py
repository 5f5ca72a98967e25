"""Read a chunk of the prompts of neighbouring rows of the cache.

Shapes: R rows, T new positions, C of them that run a layer, S key positions, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.kv_cache import KVCache, Place
from skiplab.engine.parallel_forward import run_layer
from skiplab.engine.prompt_columns import Columns, columns_of, runs_part
from skiplab.schedules.prompt_plan import PromptPart, PromptPlan


class Chunk(NamedTuple):
    """The next tokens of rows of which either all are at the first, or there is only one.

    Attributes:
        ids: per row. Shorter rows are padded on the right; states, keys and values there have no meaning, and decode
            steps mask and overwrite them.
        start: position of the first.
        lengths: of the rows' whole prompts.
    """

    ids: Sequence[Sequence[int]]
    start: int
    lengths: Sequence[int]


def read_chunk(backbone: Backbone, cache: KVCache, rows: slice, chunk: Chunk, prompt: PromptPlan) -> Tensor:
    """Run the layers on prompt tokens: their states (R, T, D).

    Args:
        rows: of the cache.
    """
    width, device = max(map(len, chunk.ids)), backbone.device
    ids_RT = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in chunk.ids], device=device)
    position_RT = torch.arange(chunk.start, chunk.start + width, device=device).expand(len(chunk.ids), width)
    context = Context(None, cache, backbone.rotary(position_RT))
    h_RTD = backbone.embed(ids_RT, position_RT)
    known: dict[PromptPart, tuple[int, Columns, Context]] = {}
    for layer in prompt.layers:
        if (part := prompt.part(layer)) not in known:
            # The same for all rows: if there are several, they have nothing yet.
            held = prompt.held(layer, chunk.lengths[0], chunk.start)
            columns = _columns(part, position_RT, chunk.lengths, projects=prompt.projects)
            known[part] = held, columns, _own(context, columns, held, h_RTD)
        held, columns, own = known[part]
        if columns.held:
            cache.seek(Place(rows, held))
            h_RTD = run_layer(backbone, layer, h_RTD, columns, context, own)
    return h_RTD


def _columns(part: PromptPart, position_RT: Tensor, lengths: Sequence[int], *, projects: bool) -> Columns:
    """The columns of a chunk that run a layer; rows with fewer are padded on the right."""
    width = position_RT.shape[1]
    if part.is_all:
        return Columns(width)
    return columns_of(runs_part(part, position_RT, lengths), align="left", projected=width if projects else 0)


def _own(context: Context, columns: Columns, held: int, h_RTD: Tensor) -> Context:
    """The context of the columns that run a layer, which already has `held` positions."""
    rotary = context.rotary and context.rotary.map(columns.take)
    if columns.projected:
        mask_RTS = _causal(held, columns.projected, h_RTD)[0].expand(len(h_RTD), -1, -1)
        return replace(context, mask_B1QS=columns.take(mask_RTS)[:, None], rotary=rotary)
    return replace(context, mask_B1QS=_causal(held, columns.count, h_RTD) if held else None, rotary=rotary)


def _causal(start: int, width: int, h_RTD: Tensor) -> Tensor:
    """Additive mask (1, 1, T, S): each of the new positions attends to itself and all before it."""
    hidden_TS = torch.ones(width, start + width, dtype=torch.bool, device=h_RTD.device).triu(start + 1)
    return torch.zeros_like(hidden_TS, dtype=h_RTD.dtype).masked_fill_(hidden_TS, -torch.inf)[None, None]
