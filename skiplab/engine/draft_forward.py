"""The parallel forward of drafts: what a drafter computes in rounds, over all positions at once.

Before a round's first token a drafter attends to keys and values of full depth, which verifications wrote, and from
there on to its own. Under its plan alone (`planned_states`) it would attend to its own throughout. For a drafter of the
bottom layers both are the same; for others training the latter leaves most drafts unaccepted.

Shapes: B rows, P prompt columns, G generated columns, N = G - 1 generated columns that are fed, S key positions, D
hidden size, H key/value heads, K head size, L layers.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.batch import Batch
from skiplab.engine.kv_cache import ContinuedKV, KeptKV
from skiplab.engine.parallel_forward import forward, positions
from skiplab.engine.policy import ExitPolicy
from skiplab.schedules.exit_schedule import layer_steps


@dataclass(frozen=True)
class FullPass:
    """A batch after its pass at full depth.

    Attributes:
        states_BGD: the states from which the generated tokens come.
        kept: keys and values of all layers and columns.
    """

    batch: Batch
    states_BGD: Tensor
    kept: KeptKV


def full_pass(backbone: Backbone, batch: Batch) -> FullPass:
    """Pass a batch through all layers."""
    kept = KeptKV()
    h_BTD = forward(backbone, batch.input_BT, batch.prompt_mask_BP, cache=kept)
    return FullPass(batch, h_BTD[:, batch.prompt_columns - 1 :], kept)


def drafted_states(backbone: Backbone, drafter: ExitPolicy, full: FullPass, *, length: int, first: int = 0) -> Tensor:
    """The states (B, N, D) with which a drafter predicts all tokens but the first.

    Args:
        drafter: its plans must be nested.
        length: tokens that are drafted in a round. All are accepted, and the next round follows at once: without the
            token that a verification adds, every position is drafted, and each place in a round is equally frequent.
        first: tokens of the first round that were drafted before the first one here.
    """
    batch = full.batch
    prompt, fed = batch.prompt_columns, batch.decode_steps
    valid_BT = torch.cat([batch.prompt_mask_BP, batch.prompt_mask_BP.new_ones(len(batch.input_BT), fed)], dim=1)
    position_BN = positions(valid_BT)[:, prompt:]
    h_BND = backbone.embed(batch.input_BT[:, prompt:], position_BN)
    mask_B1NS = _mask(valid_BT, fed, length, first, h_BND.dtype)
    context = Context(mask_B1NS, None, backbone.rotary(position_BN))
    for layer, steps in enumerate(layer_steps(drafter.plan, backbone.num_layers, fed)):
        # The prompt's pass is the first step.
        if (count := steps - 1) > 0:
            own = replace(_leading(context, fed, count), cache=ContinuedKV(*full.kept.layers[layer]))
            run_BND = backbone.layer(layer, h_BND[:, :count], own)
            h_BND = torch.cat([run_BND, h_BND[:, count:]], dim=1)
    return h_BND


def _mask(valid_BT: Tensor, fed: int, length: int, first: int, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, N, P + N + N) over the keys of full depth, and then the drafter's own."""
    column_N = torch.arange(fed, device=valid_BT.device)
    start_N1 = ((column_N + first) // length * length - first).clamp(min=0)[:, None]
    own_NN = (column_N >= start_N1) & (column_N <= column_N[:, None])
    column_S = torch.arange(valid_BT.shape[1], device=valid_BT.device)
    before_NS = column_S < valid_BT.shape[1] - fed + start_N1
    seen_BNS = torch.cat([valid_BT[:, None] & before_NS, own_NN.expand(len(valid_BT), -1, -1)], dim=-1)
    return torch.zeros_like(seen_BNS, dtype=dtype).masked_fill_(~seen_BNS, -torch.inf)[:, None]


def _leading(context: Context, fed: int, count: int) -> Context:
    """The context of the first `count` of the columns that are fed."""
    mask_B1NS = context.mask_B1QS
    assert mask_B1NS is not None
    keys = mask_B1NS.shape[-1] - fed + count
    return Context(
        mask_B1NS[:, :, :count, :keys], None, context.rotary and context.rotary.map(lambda part: part[:, :count])
    )
