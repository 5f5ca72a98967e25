"""Early termination under SkipDecode's schedule: the bottom layers run instead of the warm-up and top layers.

Fine-tuned and decoded at exactly the depths of SkipDecode (arXiv 2307.02628) for the same target speedup,
so that the two differ only in which layers run at a given depth. The top layers never see a generated
token after the first.
"""

from typing import Any, final

from skiplab.methods.base import Setup
from skiplab.methods.scheduled import ScheduleTrainedModule


@final
class EarlyTermination(ScheduleTrainedModule):
    """Fine-tunes and decodes under one terminate schedule; keywords are those of `ScheduleTrainedModule`."""

    def __init__(self, setup: Setup, **options: Any) -> None:
        super().__init__(setup, "terminate", **options)
