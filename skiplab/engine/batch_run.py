"""The decode steps of one batch.

Shapes: B rows, P prompt columns, T generated tokens, S key positions, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.step_runners import step_runner
from skiplab.engine.token_choice import TokenChoice


@dataclass(frozen=True)
class DecodeResult:
    """What a batch generated.

    Attributes:
        tokens_BT: generated ids, end-of-sequence included, `pad_id` behind it.
        length_B: generated tokens per row.
        depth_BT: layers that each token's step ran for the row; 0 behind the end.
        kv_bytes: bytes allocated for keys and values.
    """

    tokens_BT: Tensor
    length_B: Tensor
    depth_BT: Tensor
    kv_bytes: int

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
        """Additive mask (B, 1, 1, S) over so many columns that hides left padding."""
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
        logits_BV: of these.
    """

    index_B: Tensor
    token_B: Tensor
    logits_BV: Tensor

    @abstractmethod
    def advance(self, step: int) -> None:
        """Take the newest tokens through a decode step, from 1 on, and choose the next."""

    @abstractmethod
    def ended(self, step: int) -> bool:
        """Whether all rows are known to have ended with a step's tokens."""

    @abstractmethod
    def cancel(self, rows: Collection[int]) -> None:
        """End rows, by their places in the caller's batch, with the tokens that they have."""

    @abstractmethod
    def result(self) -> DecodeResult:
        """What was generated so far."""


@final
class EagerRun(BatchRun):
    """Any policy, any batch. Rows that end leave, and the last ones take their places."""

    def __init__(self, backbone: Backbone, policy: ExitPolicy, cache: KVCache, prefilled: Prefilled) -> None:
        rows, columns = prefilled.mask_BP.shape
        steps = prefilled.longest - 1
        self._backbone = backbone
        self._cache = cache
        self._prefilled = prefilled
        self._runner = step_runner(backbone, policy, cache, rows=rows, columns=columns, steps=steps)
        self._limit_B = prefilled.limit_B
        self._position_B = prefilled.mask_BP.sum(1) - 1
        padded = not bool(prefilled.mask_BP.all())
        self._mask_B11S = prefilled.padding_mask(columns + steps, backbone.dtype) if padded else None
        self._tokens_BT = prefilled.mask_BP.new_full((rows, steps + 1), prefilled.pad_id, dtype=torch.int64)
        self._depth_BT = torch.zeros_like(self._tokens_BT, dtype=torch.int32)
        self._cancelled: set[int] = set()
        self.index_B = torch.arange(rows, device=self._tokens_BT.device)
        self._take(prefilled.logits_BV, len(policy.plan(0)), 0)

    def advance(self, step: int) -> None:
        columns = self._prefilled.mask_BP.shape[1] + step
        position_B1 = self._position_B[:, None]
        h_BTD = self._backbone.embed(self.token_B[:, None], position_B1)
        self._cache.seek(columns - 1)
        mask = None if self._mask_B11S is None else self._mask_B11S[..., :columns]
        context = Context(mask, self._cache, self._backbone.rotary(position_B1))
        h_BTD, depth_B = self._runner.run(h_BTD, context, step)
        self._take(self._backbone.head(h_BTD[:, -1]), depth_B, step)

    def ended(self, step: int) -> bool:
        ended_B = self._prefilled.ended(self.token_B, self._limit_B, step + 1)
        if (stopped_B := self._prefilled.choice.stopped(self.index_B, step)) is not None:
            ended_B |= stopped_B
        ended = ended_B.tolist()
        if self._cancelled:
            ended = [end or row in self._cancelled for end, row in zip(ended, self.index_B.tolist(), strict=True)]
        source = _survivors(ended)
        if source and len(source) < len(ended):
            self._keep(source)
        return not source

    def cancel(self, rows: Collection[int]) -> None:
        self._cancelled.update(rows)

    def result(self) -> DecodeResult:
        return DecodeResult(self._tokens_BT, (self._depth_BT > 0).sum(1), self._depth_BT, self._cache.nbytes)

    def _take(self, logits_BV: Tensor, depth_B: Tensor | int, step: int) -> None:
        self.logits_BV = logits_BV
        self.token_B = self._prefilled.choice.choose(logits_BV, self.index_B, step)
        self._position_B = self._position_B + 1
        self._tokens_BT[self.index_B, step] = self.token_B
        self._depth_BT[self.index_B, step] = depth_B

    def _keep(self, source: list[int]) -> None:
        self.index_B, self.token_B = self.index_B[source], self.token_B[source]
        self._position_B, self._limit_B = self._position_B[source], self._limit_B[source]
        if self._mask_B11S is not None:
            self._mask_B11S = self._mask_B11S[source]
        self._cache.keep(source)
        self._runner.keep(source)


def _survivors(ended: list[bool]) -> list[int]:
    """Rows to keep: each stays where it is, and those past the new end fill the gaps."""
    alive = [row for row, end in enumerate(ended) if not end]
    count = len(alive)
    movers = [row for row in alive if row >= count]
    return [movers.pop() if ended[row] else row for row in range(count)]
