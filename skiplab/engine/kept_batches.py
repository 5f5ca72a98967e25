"""Batches on recorded layers whose tokens are chosen on the host: adaptive exits, and drafts with verification.

Shapes: B rows, P prompt columns.
"""

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor

from skiplab.engine.batch_run import EagerRun, Prefilled
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.policy import AdaptivePolicy
from skiplab.engine.recorded_batches import RecordedBatches
from skiplab.engine.recorded_exits import RecordedExits
from skiplab.engine.recorded_layers import RecordedPasses
from skiplab.engine.request import Request
from skiplab.engine.speculative import Speculative
from skiplab.engine.speculative_run import SpeculativeRun
from skiplab.engine.token_choice import Choosing


class KeptBatches(RecordedBatches, ABC):
    """The cache is kept from batch to batch, and rows that end leave the batch.

    Arguments and errors as for `RecordedBatches`.
    """

    def _allocate(self) -> None:
        drafts = self.policy.drafting.length if isinstance(self.policy, Speculative) else 0
        self._columns = self.prompt_columns + self.new_tokens - 1 + drafts
        self._cache = self.backbone.new_cache(self.rows, [self._columns] * self.backbone.num_layers)
        self._renew()

    @abstractmethod
    def _renew(self) -> None:
        """Make what holds the recordings."""

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

    def _renew(self) -> None:
        assert isinstance(self.policy, AdaptivePolicy)
        self._runner = RecordedExits(self.backbone, self.policy, self._cache, rows=self.rows, recorder=self._recorder)
        self._runner.grow(self._columns)

    def begin(self, prefilled: Prefilled, request: Request, prompt_BP: Tensor) -> EagerRun:
        if self._moved():
            self._renew()
        return EagerRun(self.backbone, self.policy, self._cache, prefilled, runner=self._runner)


@final
class DraftBatches(KeptBatches):
    """Some layers draft, and all verify."""

    def _renew(self) -> None:
        self._passes = RecordedPasses(self.backbone, self._cache, rows=self.rows, recorder=self._recorder)
        self._passes.grow(self._columns)

    def begin(self, prefilled: Prefilled, request: Request, prompt_BP: Tensor) -> SpeculativeRun:
        assert isinstance(self.policy, Speculative)
        if self._moved():
            self._renew()
        return SpeculativeRun(self.backbone, self.policy, self._cache, prefilled, request, prompt_BP, self._passes)
