"""What runs at a generation step.

Shapes: B rows, D hidden size, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

from torch import Tensor

from skiplab.schedule import ExitSchedule, LayerPlan, PlanKind, terminate_plan

Head = Callable[[Tensor], Tensor]


class ExitPolicy(ABC):
    """Chooses the layers of each decode step. Plans must be nested: a layer left out stays out."""

    @abstractmethod
    def plan(self, step: int) -> LayerPlan:
        """Ascending indices of the layers that may run at a generation step; step 0 is the prompt pass."""


class AdaptivePolicy(ExitPolicy):
    """A policy under which a row may leave the plan early, judged from its hidden state."""

    @abstractmethod
    def exits(self, h_BD: Tensor, *, layer: int, step: int, head: Head) -> Tensor:
        """Rows that need no layer after `layer`, as a boolean tensor of shape (B,).

        Args:
            h_BD: the state that `layer` has just put out.
            head: final norm and language-model head, (B, D) to logits (B, V).
        """


@final
class FullDepth(ExitPolicy):
    """Every layer at every step."""

    def __init__(self, num_layers: int) -> None:
        self._plan = terminate_plan(num_layers)

    def plan(self, step: int) -> LayerPlan:
        return self._plan


@final
class Scheduled(ExitPolicy):
    """The layers that an `ExitSchedule` gives to the step, the same for all rows."""

    def __init__(self, schedule: ExitSchedule, kind: PlanKind) -> None:
        self.schedule = schedule
        self.kind: PlanKind = kind

    def plan(self, step: int) -> LayerPlan:
        return self.schedule.plan(step, self.kind)
