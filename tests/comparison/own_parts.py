"""A metric and a method as a user would write them."""

from typing import Any

from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.evaluation.metric import TextMetric, quality_figure
from skiplab.methods.base import Setup
from skiplab.methods.scheduled import ScheduleTrainedModule

LENGTH = TextMetric(
    quality_figure("output_length", "number of characters", unit="characters", form="{:.1f}"),
    lambda output, references: len(output),
)


class DoubledLoss(ScheduleTrainedModule):
    """A method that does not state what its training depends on."""

    def __init__(self, setup: Setup, **options: Any) -> None:
        super().__init__(setup, "skip", **options)

    def loss(self, batch: Batch) -> Tensor:
        return 2 * super().loss(batch)
