"""What runs at a generation step.

Shapes: B rows, D hidden size, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from typing import Literal, final

from torch import Tensor

from skiplab.schedule import ExitSchedule, LayerPlan, PlanKind, terminate_plan

Head = Callable[[Tensor], Tensor]
BatchPolicy = Literal["freeze", "min"]


class ExitPolicy(ABC):
    """Chooses the layers of each decode step. Plans must be nested: a layer left out stays out."""

    @abstractmethod
    def plan(self, step: int) -> LayerPlan:
        """Ascending indices of the layers that may run at a generation step; step 0 is the prompt pass."""


class AdaptivePolicy(ExitPolicy):
    """A policy under which a row may leave the plan early, judged from its hidden state."""

    @property
    @abstractmethod
    def exit_layers(self) -> Container[int]:
        """Layers after which `exits` is asked."""

    @property
    @abstractmethod
    def batch_policy(self) -> BatchPolicy:
        """`freeze`: each row exits on its own. `min`: all exit when the least confident row does."""

    @abstractmethod
    def exits(self, h_BD: Tensor, below_BD: Tensor, *, step: int, head: Head) -> Tensor:
        """Rows that need no further layer, as a boolean tensor of shape (B,).

        Args:
            h_BD: the state that a layer of `exit_layers` has just put out.
            below_BD: the state that it took.
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
