"""Batches on recorded layers whose tokens are chosen on the host: adaptive exits, and drafts with verification.

Shapes: B rows, P prompt columns.
"""

from abc import ABC
from functools import cached_property
from typing import final

from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch_run import EagerRun, Prefilled
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.policy import AdaptivePolicy, ExitPolicy
from skiplab.engine.recorded_batches import RecordedBatches
from skiplab.engine.recorded_exits import RecordedExits
from skiplab.engine.recorded_layers import RecordedPasses
from skiplab.engine.recording import Recorder
from skiplab.engine.request import Request
from skiplab.engine.speculative import Speculative
from skiplab.engine.speculative_run import SpeculativeRun
from skiplab.engine.token_choice import Choosing


class KeptBatches(RecordedBatches, ABC):
    """The cache is kept from batch to batch, and rows that end leave the batch.

    Arguments and errors as for `RecordedBatches`.

    Args:
        record: whether a GPU records the layers; otherwise they run as they are, so that a profiler sees them.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: ExitPolicy,
        *,
        rows: int,
        prompt_columns: int,
        new_tokens: int,
        record: bool = True,
    ) -> None:
        super().__init__(backbone, policy, rows=rows, prompt_columns=prompt_columns, new_tokens=new_tokens)
        drafts = policy.drafting.length if isinstance(policy, Speculative) else 0
        self._columns = prompt_columns + new_tokens - 1 + drafts
        self._cache = backbone.new_cache(rows, [self._columns] * backbone.num_layers)
        self._recorder = Recorder(backbone.device, record=record)

    @staticmethod
    @final
    def lacks(choosing: Choosing | None) -> str | None:
        return None

    @final
    def prompt_cache(self) -> KVCache:
        return self._cache


@final
class ExitBatches(KeptBatches):
    """Rows decide on the device when to exit."""

    @cached_property
    def _runner(self) -> RecordedExits:
        assert isinstance(self.policy, AdaptivePolicy)
        runner = RecordedExits(self.backbone, self.policy, self._cache, rows=self.rows, recorder=self._recorder)
        runner.grow(self._columns)
        return runner

    def begin(self, prefilled: Prefilled, request: Request, prompt_BP: Tensor) -> EagerRun:
        return EagerRun(self.backbone, self.policy, self._cache, prefilled, runner=self._runner)


@final
class DraftBatches(KeptBatches):
    """Some layers draft, and all verify."""

    @cached_property
    def _passes(self) -> RecordedPasses:
        passes = RecordedPasses(self.backbone, self._cache, rows=self.rows, recorder=self._recorder)
        passes.grow(self._columns)
        return passes

    def begin(self, prefilled: Prefilled, request: Request, prompt_BP: Tensor) -> SpeculativeRun:
        assert isinstance(self.policy, Speculative)
        return SpeculativeRun(self.backbone, self.policy, self._cache, prefilled, request, prompt_BP, self._passes)
