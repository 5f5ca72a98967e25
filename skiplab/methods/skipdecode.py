"""SkipDecode: Autoregressive Skip Decoding with Batching and Caching (arXiv 2307.02628).

One depth per generation step for the whole batch, never increasing; the warm-up layers and the top
ones run, the prompt runs at full depth; the model is fine-tuned under the schedule that it decodes
with (section 3).

Deviations: exit layers follow from the target speedup and the data's length distribution, where the
paper sets them by hand; decays other than linear can be chosen.
"""

from typing import Any, final

from skiplab.methods.base import Setup
from skiplab.methods.scheduled import ScheduleTrainedModule


@final
class SkipDecode(ScheduleTrainedModule):
    """Fine-tunes and decodes under one skip schedule; keywords are those of `ScheduleTrainedModule`."""

    def __init__(self, setup: Setup, **options: Any) -> None:
        super().__init__(setup, "skip", **options)
