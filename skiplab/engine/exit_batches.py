"""Batches of rows that decide on the device when to exit, on recorded steps.

Shapes: B rows, P prompt columns.
"""

from typing import final

from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch_run import EagerRun, Prefilled
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.policy import AdaptivePolicy, ExitPolicy
from skiplab.engine.recorded_batches import RecordedBatches
from skiplab.engine.recorded_exits import RecordedExits
from skiplab.engine.recording import Recorder
from skiplab.engine.token_choice import Choosing


@final
class ExitBatches(RecordedBatches):
    """The layers are recorded; tokens are chosen as without recordings, and rows that end leave the batch.

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
        if not isinstance(policy, AdaptivePolicy):
            raise ValueError("recorded exits need a policy under which rows exit")
        columns = prompt_columns + new_tokens - 1
        self._cache = backbone.new_cache(rows, [columns] * backbone.num_layers)
        recorder = Recorder(backbone.device, record=record)
        self._runner = RecordedExits(backbone, policy, self._cache, rows=rows, recorder=recorder)
        self._runner.grow(columns)

    @staticmethod
    def lacks(choosing: Choosing | None) -> str | None:
        return None

    def prompt_cache(self) -> KVCache:
        return self._cache

    def begin(self, prefilled: Prefilled, choosing: Choosing | None, prompt_BP: Tensor) -> EagerRun:
        return EagerRun(self.backbone, self.policy, self._cache, prefilled, runner=self._runner)
