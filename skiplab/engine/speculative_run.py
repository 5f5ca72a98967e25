"""A batch decoded by drafts and verifications.

Shapes: B rows, T tokens of a round, V vocabulary.
"""

from collections import deque
from collections.abc import Collection, Sequence
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch_run import BatchRun, DecodeResult, Prefilled, padded_result
from skiplab.engine.choose_runner import step_runner
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.live_rows import LiveRow, LiveRows
from skiplab.engine.recorded_layers import RecordedPasses
from skiplab.engine.request import Request
from skiplab.engine.row_choice import Chooser, choose, stopped
from skiplab.engine.speculative import Rounds, Speculative, Verified


@final
class SpeculativeRun(BatchRun):
    """Rows gain different numbers of tokens per round, and each step hands out one token of every row; a row that is
    ahead keeps its tokens until the others have theirs.

    Args:
        cache: with room for `policy.drafting.length` columns behind the batch's last.
        prompt_BP: the request's prompts.
        passes: as for `LiveRows`.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: Speculative,
        cache: KVCache,
        prefilled: Prefilled,
        request: Request,
        prompt_BP: Tensor,
        passes: RecordedPasses | None = None,
    ) -> None:
        rows, prompt_columns = prefilled.mask_BP.shape
        columns = prompt_columns + prefilled.longest - 1 + policy.drafting.length
        runner = step_runner(backbone, policy, cache, rows=rows, columns=columns)
        self._live = LiveRows(backbone, cache, runner, columns=columns, passes=passes)
        self._rounds = Rounds(backbone, policy, self._live)
        self._prefilled = prefilled
        self._choices = [request.row_choice(row, prompt_BP.device) for row in range(rows)]
        self._prompts: list[list[int]] = prompt_BP.tolist()
        for prompt in request.prompts:
            self._rounds.admit(prompt)
        self._limits = prefilled.limit_B.tolist()
        padding = (~prefilled.mask_BP).sum(1).tolist()
        self._all = [LiveRow(index, policy, pad, prompt_columns) for index, pad in enumerate(padding)]
        self._live.rows = list(self._all)
        # Scores of the tokens that were not handed out yet.
        self._scores: list[deque[Tensor]] = [deque() for _ in self._all]
        tokens = choose(prefilled.logits_BV, [self._chooser(row) for row in self._all])
        first = zip(tokens, prefilled.logits_BV[:, None], strict=True)
        self._take(self._all, [Verified([token], logits_1V) for token, logits_1V in first])
        self._hand_out(0)

    def advance(self, step: int) -> None:
        while any(row.step <= step for row in self._live.rows):
            rows = self._live.decoding
            room = [self._limits[row.index] - row.step for row in rows]
            self._take(rows, self._rounds.run([self._chooser(row) for row in rows], room))
        self._hand_out(step)

    def ended(self, step: int) -> bool:
        return all(row.ended and row.step <= step + 1 for row in self._all)

    def cancel(self, rows: Collection[int]) -> None:
        cancelled = [row for row in self._all if row.index in rows]
        for row in cancelled:
            # The tokens that were handed out stay.
            kept = row.step - len(self._scores[row.index])
            del row.tokens[kept:], row.depths[kept:]
            self._scores[row.index].clear()
        self._live.end([row for row in cancelled if not row.ended])

    def result(self) -> DecodeResult:
        return padded_result(self._all, self._prefilled, self._live.nbytes, drafts=self._rounds.counts)

    def _take(self, rows: Sequence[LiveRow], found: Sequence[Verified]) -> None:
        """Append each row's tokens, up to the one that ends it."""
        ended: list[LiveRow] = []
        for row, verified in zip(rows, found, strict=True):
            # Scores of drafts that were not accepted are left over.
            for token, logits_V in zip(verified.tokens, verified.logits_TV, strict=False):
                self._live.take(row, token, len(row.policy.plan(0)))
                self._scores[row.index].append(logits_V)
                if self._ends(row):
                    ended.append(row)
                    break
        self._live.end(ended)

    def _hand_out(self, step: int) -> None:
        rows = [row for row in self._all if row.step > step]
        device = self._prefilled.logits_BV.device
        self.index_B = torch.tensor([row.index for row in rows], device=device)
        self.token_B = torch.tensor([row.tokens[step] for row in rows], device=device)
        self.logits_BV = torch.stack([self._scores[row.index].popleft() for row in rows])

    def _chooser(self, row: LiveRow) -> Chooser:
        choice = self._choices[row.index]
        return Chooser(choice, [] if choice is None else self._ids(row), row.step)

    def _ids(self, row: LiveRow) -> list[int]:
        return [*self._prompts[row.index], *row.tokens]

    def _ends(self, row: LiveRow) -> bool:
        if row.tokens[-1] in self._prefilled.eos_ids or row.step == self._limits[row.index]:
            return True
        choice = self._choices[row.index]
        return choice is not None and stopped(choice, self._ids(row))
