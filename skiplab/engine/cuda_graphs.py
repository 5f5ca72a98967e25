"""Decode steps on tensors at fixed addresses, which a GPU replays as CUDA graphs.

A planned step over one bucket of key positions is the same sequence of kernels each time: token, position,
column and mask are tensors that the step itself updates. It is recorded once, with kernels for small batches where
the device supports them, and replayed without work on the host. A schedule has few distinct plans, so there are
few recordings. On other devices a step runs the same code without being recorded.

Shapes: B rows, P prompt columns, T generated tokens, S key positions, L layers, V vocabulary.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import partial
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Context
from skiplab.engine.batch_run import BatchRun, DecodeResult, Prefilled
from skiplab.engine.fused_layers import with_kernels
from skiplab.engine.kv_cache import StaticKVCache
from skiplab.engine.parallel_forward import prefix_columns
from skiplab.engine.recorded_batches import RecordedBatches
from skiplab.engine.recorded_choice import Choose, RecordedChoice, not_recordable
from skiplab.engine.request import Request
from skiplab.engine.token_choice import Choosing
from skiplab.schedules.exit_schedule import LayerPlan, layer_steps

BUCKET = 64
CHECK_EVERY = 8


@dataclass
class _State:
    """The tensors that a step reads and updates.

    Attributes:
        token_B, position_B: the newest tokens and their positions.
        column_1: the column of their keys and values; the tensor of the cache.
        step_1: the generation step of the next tokens.
        mask_B11S: additive mask; each step unmasks its column.
        limit_B: as in `Prefilled`.
        eos_1: the first token that ends a row; -1 if there is none. Further ones are part of a recording.
        length_B: tokens generated so far; for rows that have ended, their length.
        ended_B: True for rows that have ended.
        tokens_BT: all tokens; meaningless after a row's end.
        logits_BV: the scores of the newest step.
        ids_BC: the tensor of `RecordedChoice`.
    """

    token_B: Tensor
    position_B: Tensor
    column_1: Tensor
    step_1: Tensor
    mask_B11S: Tensor
    limit_B: Tensor
    eos_1: Tensor
    length_B: Tensor
    ended_B: Tensor
    tokens_BT: Tensor
    logits_BV: Tensor
    ids_BC: Tensor


_Key = tuple[LayerPlan, int] | tuple[LayerPlan, int, tuple[object, ...]]


@final
class StepGraphs(RecordedBatches):
    """The recorded steps of a policy that gives all rows the same plan.

    Arguments and errors as for `RecordedBatches`.
    """

    def _allocate(self) -> None:
        backbone, policy, rows = self.backbone, self.policy, self.rows
        prompt_columns, new_tokens = self.prompt_columns, self.new_tokens
        if not policy.follows_plan:
            raise ValueError("recorded whole steps need a policy that gives all rows the same plan")
        self._stepping = with_kernels(backbone)
        steps_L = layer_steps(policy.plan, backbone.num_layers, new_tokens - 1)
        slots_L = [_whole_buckets(prefix_columns(prompt_columns, run)) if run > 1 else 0 for run in steps_L]
        device, dtype = backbone.device, backbone.dtype
        self.cache = StaticKVCache(
            slots_L, rows=rows, heads=backbone.kv_heads, head_size=backbone.head_size, dtype=dtype, device=device
        )

        def whole(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.int64, device=device)

        columns = _whole_buckets(prompt_columns + new_tokens - 1)
        self._choice = RecordedChoice(
            rows=rows, columns=prompt_columns + new_tokens, new_tokens=new_tokens, device=device
        )
        self._state = _State(
            token_B=whole(rows), position_B=whole(rows), column_1=self.cache.column_1, step_1=whole(1),
            mask_B11S=torch.zeros(rows, 1, 1, columns, dtype=dtype, device=device),
            limit_B=whole(rows), eos_1=whole(1), length_B=whole(rows), ended_B=whole(rows).bool(),
            tokens_BT=whole(rows, new_tokens),
            logits_BV=torch.zeros(rows, backbone.model.config.vocab_size, dtype=dtype, device=device),
            ids_BC=self._choice.ids_BC,
        )  # fmt: skip
        self._recorded: dict[_Key, Callable[[], None]] = {}

    @staticmethod
    def lacks(choosing: Choosing | None) -> str | None:
        return None if choosing is None else not_recordable(choosing)

    def prompt_cache(self) -> StaticKVCache:
        self.cache.bucket = 0
        return self.cache

    def begin(self, prefilled: Prefilled, request: Request, prompt_BP: Tensor) -> "GraphRun":
        self._fill(prefilled, request.choosing, prompt_BP)
        return GraphRun(self, prefilled)

    def _fill(self, prefilled: Prefilled, choosing: Choosing | None, prompt_BP: Tensor) -> None:
        """Fill the tensors for a batch."""
        if self._moved():
            self._recorded.clear()
            self._stepping = with_kernels(self.backbone)
        state, columns = self._state, prefilled.mask_BP.shape[1]
        token_B = prefilled.choice.choose(prefilled.logits_BV, torch.arange(self.rows, device=prompt_BP.device), 0)
        self._choice.begin(choosing, prompt_BP, prefilled.mask_BP, prefilled.eos_ids, token_B)
        # Keep recordings of plain greedy decoding, and those that this batch's options need.
        kept = self._choice.keys()
        self._recorded = {key: step for key, step in self._recorded.items() if len(key) == 2 or key[2] in kept}
        state.token_B.copy_(token_B)
        ended_B = prefilled.ended(token_B, prefilled.limit_B, 1)
        # Rows that have ended do not advance, so that they stay within the backbone's positions.
        state.position_B.copy_(prefilled.mask_BP.sum(1) - ended_B.long())
        state.column_1.fill_(columns)
        state.step_1.fill_(1)
        state.mask_B11S.fill_(-torch.inf)
        state.mask_B11S[..., :columns] = prefilled.padding_mask(columns, state.mask_B11S.dtype)
        state.limit_B.copy_(prefilled.limit_B)
        state.eos_1.fill_(prefilled.eos_ids[0] if prefilled.eos_ids else -1)
        state.length_B.fill_(1)
        state.ended_B.copy_(ended_B)
        state.tokens_BT[:, 0] = token_B
        state.logits_BV.copy_(prefilled.logits_BV)

    def run(self, step: int, columns: int) -> _State:
        """Run a step that attends to `columns` columns; it is recorded at its first run."""
        plan, bucket, choice = self.policy.plan(step), _whole_buckets(columns), self._choice.key(step)
        key = (plan, bucket, choice) if choice else (plan, bucket)
        if key not in self._recorded:
            self._recorded[key] = self._record(plan, bucket, self._choice.at(step))
        self._recorded[key]()
        return self._state

    @property
    def state(self) -> _State:
        return self._state

    def _step(self, plan: LayerPlan, bucket: int, choose: Choose) -> None:
        state, backbone = self._state, self._stepping
        self.cache.bucket = bucket
        state.mask_B11S.index_fill_(3, state.column_1, 0)
        position_B1 = state.position_B[:, None]
        h_B1D = backbone.embed(state.token_B[:, None], position_B1)
        context = Context(state.mask_B11S[..., :bucket], self.cache, backbone.rotary(position_B1))
        for layer in plan:
            h_B1D = backbone.layer(layer, h_B1D, context)
        state.logits_BV.copy_(backbone.head(h_B1D[:, -1]))
        state.token_B.copy_(choose(state.logits_BV, state.step_1))
        state.tokens_BT.index_copy_(1, state.step_1, state.token_B[:, None])
        state.step_1.add_(1)
        state.column_1.add_(1)
        if self._choice.reads_ids:
            state.ids_BC.index_copy_(1, state.column_1, state.token_B[:, None])
        state.length_B.add_(~state.ended_B)
        state.ended_B.logical_or_((state.token_B == state.eos_1) | (state.limit_B == state.step_1))
        for eos_id in self._choice.further_eos:
            state.ended_B.logical_or_(state.token_B == eos_id)
        state.position_B.add_(~state.ended_B)

    def _record(self, plan: LayerPlan, bucket: int, choose: Choose) -> Callable[[], None]:
        state = [getattr(self._state, field.name) for field in fields(self._state)]
        return self._recorder.record(partial(self._step, plan, bucket, choose), state)


@final
class GraphRun(BatchRun):
    """A planned batch on recorded steps. Ended rows stay in the batch; every few steps the host checks whether all
    have ended."""

    def __init__(self, graphs: StepGraphs, prefilled: Prefilled) -> None:
        self._graphs = graphs
        self._prefilled = prefilled
        self.index_B = torch.arange(graphs.rows, device=prefilled.logits_BV.device)
        self.token_B = graphs.state.token_B
        self.logits_BV = prefilled.logits_BV

    def advance(self, step: int) -> None:
        state = self._graphs.run(step, self._prefilled.mask_BP.shape[1] + step)
        self.logits_BV = state.logits_BV

    def cancel(self, rows: Collection[int]) -> None:
        self._graphs.state.ended_B[list(rows)] = True

    def ended(self, step: int) -> bool:
        return step % CHECK_EVERY == 0 and bool(self._graphs.state.ended_B.all())

    def result(self) -> DecodeResult:
        state, longest = self._graphs.state, self._prefilled.longest
        depths = [len(self._graphs.policy.plan(step)) for step in range(longest)]
        step_T = torch.arange(longest, device=state.token_B.device)
        length_B = state.length_B.clone()
        behind_BT = step_T >= length_B[:, None]
        depth_T = torch.tensor(depths, dtype=torch.int32, device=state.token_B.device)
        return DecodeResult(
            tokens_BT=state.tokens_BT[:, :longest].masked_fill(behind_BT, self._prefilled.pad_id),
            length_B=length_B,
            depth_BT=depth_T.expand(self._graphs.rows, longest).masked_fill(behind_BT, 0),
            kv_bytes=self._graphs.cache.nbytes,
        )


def _whole_buckets(columns: int) -> int:
    return -(-columns // BUCKET) * BUCKET
