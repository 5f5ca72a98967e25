"""SkipDecode: Autoregressive Skip Decoding with Batching and Caching (arXiv 2307.02628).

One depth per generation step for the whole batch, never increasing; the warm-up layers and the top
ones run, the prompt runs at full depth; the model is fine-tuned under the schedule that it decodes
with (section 3).

Deviations: exit layers follow from the target speedup and the data's length distribution, where the
paper sets them by hand; decays other than linear can be chosen.
"""

from typing import Any, final

from torch import Tensor

from skiplab.batch import Batch
from skiplab.forward import scheduled_logits
from skiplab.losses import token_loss
from skiplab.module import Setup
from skiplab.scheduled import ScheduledModule


@final
class SkipDecode(ScheduledModule):
    """Fine-tunes and decodes under one skip schedule; keywords are those of `ScheduleSpec`."""

    def __init__(self, setup: Setup, **schedule: Any) -> None:
        super().__init__(setup, "skip", **schedule)

    @property
    def recipe(self) -> dict[str, Any] | None:
        return {"loss": "scheduled", "kind": self.policy.kind, **vars(self.policy.schedule)}

    def loss(self, batch: Batch) -> Tensor:
        return token_loss(scheduled_logits(self.backbone, self.policy, batch), batch.target_BG)
