"""Early termination under SkipDecode's schedule: the bottom layers run instead of warm-up and top ones.

Fine-tuned and decoded at the very depths of SkipDecode (arXiv 2307.02628) for the same target speedup,
so that the two differ in nothing but which layers a depth means. The top layers never see a generated
token after the first.
"""

from typing import Any, final

from torch import Tensor

from skiplab.batch import Batch
from skiplab.module import Setup
from skiplab.scheduled import ScheduledModule


@final
class EarlyTermination(ScheduledModule):
    """Fine-tunes and decodes under one terminate schedule; keywords are those of `ScheduleSpec`."""

    def __init__(self, setup: Setup, **schedule: Any) -> None:
        super().__init__(setup, "terminate", **schedule)

    @property
    def recipe(self) -> dict[str, Any] | None:
        return self.scheduled_recipe()

    def loss(self, batch: Batch) -> Tensor:
        return self.scheduled_loss(batch)
