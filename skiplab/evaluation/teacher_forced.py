"""Teacher-forced losses under plans. Each prompt passes through the backbone once, however many references and plans
continue it.

Shapes: B rows, U prompts, P prompt columns, G generated columns, N = G - 1 of them that are fed, S key positions,
D hidden size, L layers.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.batch import IGNORE, Batch, PromptGroup
from skiplab.engine.kv_cache import ContinuedKV, KeptKV
from skiplab.engine.parallel_forward import causal_mask, forward, planned_states, positions
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.prompt_columns import Columns
from skiplab.schedules.exit_schedule import LayerPlan, layer_steps
from skiplab.schedules.nested_plan import NestedPlan

# Generated tokens whose logits are held at a time.
_LOGITS = 1024


def policy_losses(backbone: Backbone, policy: ExitPolicy, group: PromptGroup) -> tuple[Tensor, Tensor]:
    """As `Continuations.loss_by_step`, for one group and any policy that follows its plan."""
    if policy.prompt.is_whole:
        return _continued(backbone, policy.plan, _read(backbone, group, policy.plan(0)))
    # Under a plan over prompt positions the layers do not hold the same columns.
    return _by_step(backbone, [(planned_states(backbone, policy, batch), batch.target_BG) for batch in group.batches])


@dataclass(frozen=True)
class _Read:
    """A group of prompts after their pass.

    Attributes:
        kept: each layer's keys and values of the prompt columns.
        first_UD: the state from which a prompt's first token comes.
    """

    group: PromptGroup
    kept: KeptKV
    first_UD: Tensor


def _read(backbone: Backbone, group: PromptGroup, layers: Container[int]) -> _Read:
    """Pass the prompts of a group through some layers."""
    kept, every = KeptKV(), Columns(group.prompt_UP.shape[1])
    columns_L = [every if layer in layers else Columns(0) for layer in range(backbone.num_layers)]
    h_UPD = forward(backbone, group.prompt_UP, group.mask_UP, columns_L=columns_L, cache=kept)
    return _Read(group, kept, h_UPD[:, -1])


def _continued(backbone: Backbone, plan: Callable[[int], LayerPlan], read: _Read) -> tuple[Tensor, Tensor]:
    """Losses and counts by step, of the examples that continue prompts."""
    parts = []
    for prompt_B, batch in zip(read.group.prompt_of, read.group.batches, strict=True):
        h_BND = _fed_states(backbone, plan, batch, prompt_B, read.kept)
        parts.append((torch.cat([read.first_UD[prompt_B][:, None], h_BND], dim=1), batch.target_BG))
    return _by_step(backbone, parts)


def _by_step(backbone: Backbone, parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Losses and counts by step.

    Args:
        parts: states (B, G, D) and the tokens (B, G) that they predict.
    """
    losses, counts = [], []
    for h_BGD, target_BG in parts:
        real_BG = target_BG != IGNORE
        loss_BG = h_BGD.new_zeros(real_BG.shape, dtype=torch.float64)
        loss_BG[real_BG] = _losses(backbone, h_BGD[real_BG], target_BG[real_BG])
        losses.append(loss_BG.sum(0))
        counts.append(real_BG.sum(0))
    return _sum(losses), _sum(counts)


def _fed_states(
    backbone: Backbone, plan: Callable[[int], LayerPlan], batch: Batch, prompt_B: Tensor, kept: KeptKV
) -> Tensor:
    """The states (B, N, D) of the tokens that are fed, each after the layers of its plan."""
    columns, fed = batch.prompt_columns, batch.decode_steps
    valid_BT = torch.cat([batch.prompt_mask_BP, batch.prompt_mask_BP.new_ones(len(prompt_B), fed)], dim=1)
    position_BN = positions(valid_BT)[:, columns:]
    h_BND = backbone.embed(batch.input_BT[:, columns:], position_BN)
    # Queries that follow other columns need an explicit causal mask.
    mask_B1TT = causal_mask(valid_BT, h_BND.dtype, always=True)
    assert mask_B1TT is not None
    rotary = backbone.rotary(position_BN)
    for layer, steps in enumerate(layer_steps(plan, backbone.num_layers, fed)):
        # The prompt's pass is the first step.
        if (count := steps - 1) > 0:
            cache = ContinuedKV(*(part_UHPK[prompt_B] for part_UHPK in kept.layers[layer]))
            mask_B1NS = mask_B1TT[:, :, columns : columns + count, : columns + count]
            own = Context(mask_B1NS, cache, rotary and rotary.map(lambda part, count=count: part[:, :count]))
            h_BND = torch.cat([backbone.layer(layer, h_BND[:, :count], own), h_BND[:, count:]], dim=1)
    return h_BND


def _losses(backbone: Backbone, h_ND: Tensor, target_N: Tensor) -> Tensor:
    """The cross entropy of each of N tokens."""
    parts = [
        F.cross_entropy(backbone.head(part_ND).float(), target_part_N, reduction="none")
        for part_ND, target_part_N in zip(h_ND.split(_LOGITS), target_N.split(_LOGITS), strict=True)
    ]
    return torch.cat(parts).double()


def _sum(parts: Sequence[Tensor]) -> Tensor:
    """The sum of vectors of different length."""
    longest = max(map(len, parts))
    return torch.stack([F.pad(part, (0, longest - len(part))) for part in parts]).sum(0)


@final
class Continuations:
    """Groups of examples after the prompt pass of a backbone, whose weights must not change afterwards."""

    @torch.inference_mode()
    def __init__(self, backbone: Backbone, groups: Iterable[PromptGroup]) -> None:
        self._backbone = backbone
        self._read = [_read(backbone, group, range(backbone.num_layers)) for group in groups]

    @torch.inference_mode()
    def loss_by_step(self, plan: NestedPlan) -> tuple[Tensor, Tensor]:
        """Cross entropy summed over the rows that reach each generation step, in nats, and how many do; both (G,)."""
        losses, counts = zip(*(_continued(self._backbone, plan.plan, read) for read in self._read), strict=True)
        return _sum(losses), _sum(counts)

    def loss(self, plan: NestedPlan) -> float:
        """Mean cross entropy over generated tokens, in nats."""
        losses_G, counts_G = self.loss_by_step(plan)
        return float(losses_G.sum() / counts_G.sum())
