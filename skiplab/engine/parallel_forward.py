"""The parallel forward: the function that step-by-step decoding computes, over all positions at once.

Because plans are nested, layer `l` works on a prefix of the sequence, so the forward under a
schedule is `h[:, :n_l] = layer_l(h[:, :n_l])`. Under a plan over prompt positions a layer works on an index set of
columns (`prompt_columns`). It serves training, scoring and prefill alike.

Shapes: B rows, T positions, P prompt columns, C columns that run a layer, G generated columns, D hidden size, V
vocabulary, L layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.batch import Batch
from skiplab.engine.kv_cache import GivenKV, KVStore
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.prompt_columns import Columns, batch_columns
from skiplab.schedules.exit_schedule import layer_steps


def positions(valid_BT: Tensor) -> Tensor:
    """Position of each token among the real ones of its row; 0 at left padding."""
    return (valid_BT.cumsum(dim=1) - 1).clamp(min=0)


def causal_mask(valid_BT: Tensor, dtype: torch.dtype, *, always: bool = False) -> Tensor | None:
    """Additive causal mask (B, 1, T, T) that hides left padding; None if no row is padded, unless `always`.

    A padded position attends to itself, which keeps its unused state finite.
    """
    if not always and bool(valid_BT.all()):
        return None
    columns = valid_BT.shape[1]
    ones = torch.ones(columns, columns, dtype=torch.bool, device=valid_BT.device)
    seen_BTT = (ones.tril() & valid_BT[:, None, :]) | ones.triu().tril()
    return torch.zeros_like(seen_BTT, dtype=dtype).masked_fill_(~seen_BTT, -torch.inf)[:, None]


def start(
    backbone: Backbone, ids_BT: Tensor, prompt_mask_BP: Tensor, cache: KVStore | None = None
) -> tuple[Tensor, Context]:
    """The state (B, T, D) that the first layer takes, and the context for the layers.

    Args:
        ids_BT: left-padded prompt, then generated tokens.
        cache: receives the keys and values of the layers that run.
    """
    generated = prompt_mask_BP.new_ones(ids_BT.shape[0], ids_BT.shape[1] - prompt_mask_BP.shape[1])
    valid_BT = torch.cat([prompt_mask_BP, generated], dim=1)
    position_BT = positions(valid_BT)
    h_BTD = backbone.embed(ids_BT, position_BT)
    if cache is not None:
        cache.seek(0)
    return h_BTD, Context(causal_mask(valid_BT, h_BTD.dtype), cache, backbone.rotary(position_BT))


def layer_states(
    backbone: Backbone,
    ids_BT: Tensor,
    prompt_mask_BP: Tensor,
    *,
    columns_L: Sequence[Columns] | None = None,
    cache: KVStore | None = None,
) -> Iterator[Tensor]:
    """Yield the state (B, T, D) after each layer.

    Args:
        columns_L: the columns that run each layer; the others skip it. None runs every layer on all.
        ids_BT, prompt_mask_BP, cache: as for `start`.
    """
    h_BTD, context = start(backbone, ids_BT, prompt_mask_BP, cache)
    every = Columns(ids_BT.shape[1])
    contexts: dict[Columns, Context] = {}
    for index in range(backbone.num_layers):
        columns = every if columns_L is None else columns_L[index]
        if columns.count:
            if columns not in contexts:
                contexts[columns] = narrowed(context, columns, h_BTD)
            h_BTD = run_layer(backbone, index, h_BTD, columns, context, contexts[columns])
        yield h_BTD


def run_layer(
    backbone: Backbone, index: int, h_BTD: Tensor, columns: Columns, context: Context, own: Context
) -> Tensor:
    """The states (B, T, D) after a layer that only some columns run, or none.

    Args:
        context: of all columns.
        own: of those that run, from `narrowed`.
    """
    if columns.projected:
        rotary = context.prefix(columns.projected).rotary
        key, value = backbone.project_kv(index, h_BTD[:, : columns.projected], rotary)
        if context.cache is not None:
            key, value = context.cache.update(key, value, index)
        own = replace(own, cache=GivenKV(key, value))
    if not columns.count:
        return h_BTD
    return columns.put(h_BTD, backbone.layer(index, columns.take(h_BTD), own))


def narrowed(context: Context, columns: Columns, h_BTD: Tensor) -> Context:
    """The context of the columns that run a layer.

    Args:
        context: of all columns.
        h_BTD: the states, for their shape and number format.
    """
    if columns.index_BC is None and not columns.projected:
        return context if columns.count == h_BTD.shape[1] else context.prefix(columns.count)
    rotary = context.rotary and context.rotary.map(columns.take)
    if columns.projected:
        mask_B1KK = context.prefix(columns.projected).mask_B1QS
        if mask_B1KK is None:
            seen_BK = h_BTD.new_ones(len(h_BTD), columns.projected, dtype=torch.bool)
            mask_B1KK = causal_mask(seen_BK, h_BTD.dtype, always=True)
        assert mask_B1KK is not None
        return replace(context, mask_B1QS=columns.take(mask_B1KK[:, 0])[:, None], rotary=rotary)
    real_BC = columns.real_BC if columns.leads else None
    mask = None if real_BC is None else causal_mask(real_BC, h_BTD.dtype)
    return replace(context, mask_B1QS=mask, rotary=rotary)


def forward(
    backbone: Backbone,
    ids_BT: Tensor,
    prompt_mask_BP: Tensor,
    *,
    columns_L: Sequence[Columns] | None = None,
    cache: KVStore | None = None,
) -> Tensor:
    """The state (B, T, D) after the last layer; arguments as for `layer_states`."""
    *_, h_BTD = layer_states(backbone, ids_BT, prompt_mask_BP, columns_L=columns_L, cache=cache)
    return h_BTD


def prefix_columns(prompt_columns: int, steps: int) -> int:
    """Leading columns that a layer runs on if it runs in the first `steps` steps, the prompt pass included."""
    return prompt_columns + steps - 1 if steps else 0


def planned_states(backbone: Backbone, policy: ExitPolicy, batch: Batch) -> Tensor:
    """States (B, G, D) that predict the generated tokens when each step runs only the layers of its plan."""
    steps_L = layer_steps(policy.plan, backbone.num_layers, batch.decode_steps)
    columns_L = batch_columns(policy.prompt, steps_L, batch.prompt_mask_BP)
    h_BTD = forward(backbone, batch.input_BT, batch.prompt_mask_BP, columns_L=columns_L)
    return h_BTD[:, batch.prompt_columns - 1 :]


def planned_logits(backbone: Backbone, policy: ExitPolicy, batch: Batch) -> Tensor:
    """Logits (B, G, V) of the generated tokens when each step runs only the layers of its plan."""
    return backbone.head(planned_states(backbone, policy, batch))
