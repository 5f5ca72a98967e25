"""What the methods with a fixed schedule share: its solution, its name and its policy."""

from abc import ABC
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from skiplab.batch import Batch
from skiplab.forward import scheduled_logits
from skiplab.losses import token_loss
from skiplab.module import ExitModule, Setup
from skiplab.policy import ExitPolicy, Scheduled
from skiplab.schedule import PlanKind, ScheduleSpec


class ScheduledModule(ExitModule, ABC):
    """Decodes under one schedule; keywords are those of `ScheduleSpec`.

    Args:
        kind: which layers a depth means.
    """

    def __init__(self, setup: Setup, kind: PlanKind, **schedule: Any) -> None:
        super().__init__(setup)
        self._spec = ScheduleSpec(**schedule)
        self.policy = Scheduled(self._spec.schedule(setup.backbone.num_layers, setup.lengths), kind)

    @property
    def setting(self) -> str:
        return str(self._spec)

    @property
    def target_speedup(self) -> float | None:
        return self._spec.speedup

    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        return self.policy

    def scheduled_recipe(self) -> dict[str, Any]:
        """The recipe of a training under the schedule itself."""
        return {"loss": "scheduled", "kind": self.policy.kind, **vars(self.policy.schedule)}

    def scheduled_loss(self, batch: Batch) -> Tensor:
        """The LM loss of the function that decoding under the schedule computes."""
        return token_loss(scheduled_logits(self.backbone, self.policy, batch), batch.target_BG)
