"""The decode steps of one batch.

Shapes: B rows, P prompt columns, T generated tokens, S key positions, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.choose_runner import step_runner
from skiplab.engine.draft_length import DraftCounts
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.live_rows import LiveRow, LiveRows
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.row_layout import row_prompts
from skiplab.engine.step_runners import StepRunner
from skiplab.engine.token_choice import TokenChoice


@dataclass(frozen=True)
class DecodeResult:
    """The output of a batch.

    Attributes:
        tokens_BT: generated ids, end-of-sequence included, then `pad_id`.
        length_B: generated tokens per row.
        depth_BT: number of layers that ran on the row for each token; 0 after the end.
        kv_bytes: bytes allocated for keys and values.
        drafts: what was drafted and accepted; None if nothing was.
    """

    tokens_BT: Tensor
    length_B: Tensor
    depth_BT: Tensor
    kv_bytes: int
    drafts: DraftCounts | None = None

    def sequences(self) -> list[list[int]]:
        """Generated ids per row, without padding."""
        return [row[:length] for row, length in zip(self.tokens_BT.tolist(), self.length_B.tolist(), strict=True)]


@dataclass(frozen=True)
class Prefilled:
    """A batch after its prompt pass.

    Attributes:
        logits_BV: of the first generated token.
        mask_BP: True at prompt tokens, False at left padding.
        limit_B: tokens that each row may generate.
        longest: the largest of these.
        eos_ids: a row ends when it generates one of these tokens.
        choice: chooses the tokens.
    """

    logits_BV: Tensor
    mask_BP: Tensor
    limit_B: Tensor
    longest: int
    eos_ids: tuple[int, ...]
    pad_id: int
    choice: TokenChoice

    def padding_mask(self, columns: int, dtype: torch.dtype) -> Tensor:
        """Additive mask (B, 1, 1, S) over `columns` columns that hides left padding."""
        mask_BS = torch.zeros(len(self.mask_BP), columns, dtype=dtype, device=self.mask_BP.device)
        mask_BS[:, : self.mask_BP.shape[1]].masked_fill_(~self.mask_BP, -torch.inf)
        return mask_BS[:, None, None]

    def ended(self, token_B: Tensor, limit_B: Tensor, count: int | Tensor) -> Tensor:
        """Rows that end with their `count`-th token, (B,)."""
        ended_B = limit_B == count
        for eos_id in self.eos_ids:
            ended_B = ended_B | (token_B == eos_id)
        return ended_B


class BatchRun(ABC):
    """The state of the step loop.

    Attributes:
        index_B: the rows' places in the caller's batch.
        token_B: their newest tokens.
        logits_BV: the scores from which these were chosen.
    """

    index_B: Tensor
    token_B: Tensor
    logits_BV: Tensor

    @abstractmethod
    def advance(self, step: int) -> None:
        """Run decode step `step` (1 or later) on the newest tokens, and choose the next ones."""

    @abstractmethod
    def ended(self, step: int) -> bool:
        """Whether all rows are known to have ended with a step's tokens."""

    @abstractmethod
    def cancel(self, rows: Collection[int]) -> None:
        """End rows, given by their places in the caller's batch; they keep the tokens that they have."""

    @abstractmethod
    def result(self) -> DecodeResult:
        """The tokens generated so far."""


@final
class EagerRun(BatchRun):
    """For any policy and any batch. Rows that end are removed.

    Args:
        runner: of this cache; None makes one.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: ExitPolicy,
        cache: KVCache,
        prefilled: Prefilled,
        runner: StepRunner | None = None,
    ) -> None:
        rows, prompt_columns = prefilled.mask_BP.shape
        columns = prompt_columns + prefilled.longest - 1
        runner = runner or step_runner(backbone, policy, cache, rows=rows, columns=columns)
        self._live = LiveRows(backbone, cache, runner, columns=columns)
        self._prefilled = prefilled
        self._limits = prefilled.limit_B.tolist()
        self._cancelled: set[int] = set()
        padding = (~prefilled.mask_BP).sum(1).tolist()
        prompts = row_prompts(policy.prompt, policy.plan(1), [prompt_columns - pad for pad in padding])
        self._all = [
            LiveRow(index, policy, pad, prompt_columns, prompt=prompt)
            for index, (pad, prompt) in enumerate(zip(padding, prompts, strict=True))
        ]
        self._live.rows = list(self._all)
        self._take(prefilled.logits_BV, [len(policy.plan(0))] * rows, 0)

    def advance(self, step: int) -> None:
        logits_BV, depths = self._live.advance()
        self._take(logits_BV, depths, step)

    def ended(self, step: int) -> bool:
        stopped_B = self._prefilled.choice.stopped(self.index_B, step)
        stopped = [False] * len(self.index_B) if stopped_B is None else stopped_B.tolist()
        rows = zip(self._live.rows, stopped, strict=True)
        self._live.end([row for row, stop in rows if stop or self._ends(row)])
        return not self._live.rows

    def cancel(self, rows: Collection[int]) -> None:
        self._cancelled.update(rows)

    def result(self) -> DecodeResult:
        return padded_result(self._all, self._prefilled, self._live.nbytes)

    def _take(self, logits_BV: Tensor, depths: Sequence[int], step: int) -> None:
        rows = self._live.rows
        if step == 0 or len(rows) != len(self.index_B):
            self.index_B = torch.tensor([row.index for row in rows], device=logits_BV.device)
        self.logits_BV = logits_BV
        self.token_B = self._prefilled.choice.choose(logits_BV, self.index_B, step)
        for row, token, depth in zip(rows, self.token_B.tolist(), depths, strict=True):
            self._live.take(row, token, depth)

    def _ends(self, row: LiveRow) -> bool:
        known = len(row.tokens) == self._limits[row.index] or row.index in self._cancelled
        return known or row.tokens[-1] in self._prefilled.eos_ids


def padded_result(
    rows: Sequence[LiveRow], prefilled: Prefilled, kv_bytes: int, *, drafts: DraftCounts | None = None
) -> DecodeResult:
    """The rows' tokens and depths as tensors; arguments as in `DecodeResult`."""
    length_B = torch.tensor([row.step for row in rows])
    tokens_BT = torch.full((len(rows), prefilled.longest), prefilled.pad_id)
    depth_BT = torch.zeros_like(tokens_BT, dtype=torch.int32)
    for row, (tokens_T, depth_T) in zip(rows, zip(tokens_BT, depth_BT, strict=True), strict=True):
        tokens_T[: row.step] = torch.tensor(row.tokens)
        depth_T[: row.step] = torch.tensor(row.depths)
    device = prefilled.mask_BP.device
    return DecodeResult(tokens_BT.to(device), length_B.to(device), depth_BT.to(device), kv_bytes, drafts)
