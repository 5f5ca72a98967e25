"""The full model: every layer at every step. Its training makes the base that all methods start from."""

from collections.abc import Sequence
from typing import Any, final

from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.engine.parallel_forward import planned_states
from skiplab.engine.policy import ExitPolicy, FullDepth
from skiplab.methods.base import ExitModule, Setup
from skiplab.methods.lm_loss import lm_loss


@final
class Full(ExitModule):
    """Full depth.

    Args:
        fine_tune: train on from the base as the other methods do, so that what more training gives is seen;
            False takes the base's weights as they are.
    """

    def __init__(self, setup: Setup, *, fine_tune: bool = False) -> None:
        super().__init__(setup)
        self._fine_tune = fine_tune
        self._policy = FullDepth(setup.backbone.num_layers)

    @property
    def setting(self) -> str:
        return "1x fine-tuned" if self._fine_tune else "1x"

    @property
    def target_speedup(self) -> float | None:
        return 1.0

    @property
    def recipe(self) -> dict[str, Any] | None:
        return {"loss": "full"} if self._fine_tune else None

    def loss(self, batch: Batch) -> Tensor:
        return lm_loss(self.backbone, planned_states(self.backbone, self._policy, batch), batch.target_BG)

    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        return self._policy
