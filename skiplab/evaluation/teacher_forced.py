"""Teacher-forced losses of many plans on the same examples: the prompts, which run every layer under any plan,
pass through the backbone once.

Shapes: B rows, P prompt columns, G generated columns, D hidden size, L layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context, Rotary
from skiplab.engine.batch import IGNORE, Batch
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.parallel_forward import causal_mask, positions, start
from skiplab.schedules.nested_plan import NestedPlan


@dataclass(frozen=True)
class _Prompted:
    """One batch after its prompt pass.

    Attributes:
        cache: every layer's keys and values of the prompt columns, with room for the generated ones.
        first_B1D: the state from which the first token comes.
        input_BGD: embedded inputs of the later ones.
        mask_B1GS: additive mask of the generated columns over all.
        rotary: of the generated columns.
    """

    cache: KVCache
    first_B1D: Tensor
    input_BGD: Tensor
    mask_B1GS: Tensor
    rotary: Rotary | None
    target_BG: Tensor
    prompt_columns: int


@final
class Continuations:
    """Batches after the prompt pass of a backbone, whose weights must not change afterwards."""

    @torch.inference_mode()
    def __init__(self, backbone: Backbone, batches: Iterable[Batch]) -> None:
        self._backbone = backbone
        self._prompted = [self._read(batch) for batch in batches]

    @torch.inference_mode()
    def loss_by_step(self, plan: NestedPlan) -> tuple[Tensor, Tensor]:
        """Cross entropy summed over the rows that reach each generation step, in nats, and how many do; both (G,)."""
        parts = [self._losses(prompted, plan) for prompted in self._prompted]
        longest = max(len(losses) for losses, _ in parts)
        losses_G, counts_G = (
            torch.stack([F.pad(part, (0, longest - len(part))) for part in side]).sum(0)
            for side in zip(*parts, strict=True)
        )
        return losses_G, counts_G

    def loss(self, plan: NestedPlan) -> float:
        """Mean cross entropy over generated tokens, in nats."""
        losses_G, counts_G = self.loss_by_step(plan)
        return float(losses_G.sum() / counts_G.sum())

    def _read(self, batch: Batch) -> _Prompted:
        backbone, columns = self._backbone, batch.prompt_columns
        cache = backbone.new_cache(len(batch.input_BT), [batch.input_BT.shape[1]] * backbone.num_layers)
        h_BPD, context = start(backbone, batch.input_BT[:, :columns], batch.prompt_mask_BP, cache)
        for layer in range(backbone.num_layers):
            h_BPD = backbone.layer(layer, h_BPD, context)
        cache.seek(columns)
        generated = batch.prompt_mask_BP.new_ones(len(batch.input_BT), batch.input_BT.shape[1] - columns)
        valid_BT = torch.cat([batch.prompt_mask_BP, generated], dim=1)
        position_BT = positions(valid_BT)
        input_BTD = backbone.embed(batch.input_BT, position_BT)
        # Queries that follow cached columns need an explicit causal mask.
        mask = causal_mask(valid_BT, input_BTD.dtype, always=True)
        assert mask is not None
        return _Prompted(
            cache=cache,
            first_B1D=h_BPD[:, -1:],
            input_BGD=input_BTD[:, columns:],
            mask_B1GS=mask[:, :, columns:],
            rotary=backbone.rotary(position_BT[:, columns:]),
            target_BG=batch.target_BG,
            prompt_columns=columns,
        )

    def _losses(self, prompted: _Prompted, plan: NestedPlan) -> tuple[Tensor, Tensor]:
        h_BGD, columns = prompted.input_BGD, prompted.prompt_columns
        steps = h_BGD.shape[1]
        for layer in range(self._backbone.num_layers):
            run = sum(layer in plan.plan(step) for step in range(1, steps + 1))
            if run:
                mask = prompted.mask_B1GS[:, :, :run, : columns + run]
                rotary = prompted.rotary and prompted.rotary.map(lambda part, run=run: part[:, :run])
                context = Context(mask, prompted.cache, rotary)
                out_BRD = self._backbone.layer(layer, h_BGD[:, :run], context)
                h_BGD = out_BRD if run == steps else torch.cat([out_BRD, h_BGD[:, run:]], dim=1)
        logits_BGV = self._backbone.head(torch.cat([prompted.first_B1D, h_BGD], dim=1))
        losses_BG = F.cross_entropy(
            logits_BGV.transpose(1, 2), prompted.target_BG, ignore_index=IGNORE, reduction="none"
        )
        return losses_BG.sum(0).double(), (prompted.target_BG != IGNORE).sum(0)
