"""The full model: every layer at every step. Its training makes the base that all methods start from."""

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.engine.parallel_forward import planned_states
from skiplab.engine.policy import FullDepth
from skiplab.methods.base import PlannedModule, Setup
from skiplab.methods.lm_loss import lm_loss


@final
class Full(PlannedModule):
    """Full depth.

    Args:
        fine_tune: continue training from the base as the other methods do, which shows the effect of further
            training; False takes the weights of the base unchanged.
    """

    def __init__(self, setup: Setup, *, fine_tune: bool = False) -> None:
        super().__init__(setup)
        self.trains = fine_tune
        self.policy = FullDepth(setup.backbone.num_layers)

    def check_untrained(self) -> None:
        if self.trains:
            raise ValueError(
                "fine_tune=true trains, and passes=0 trains nothing; set methods.full.sweep.fine_tune=[false]"
            )

    @property
    def setting(self) -> str:
        return "1x fine-tuned" if self.trains else "1x"

    @property
    def target_speedup(self) -> float | None:
        return 1.0

    def shared_recipe(self) -> Mapping[str, Any]:
        """The training does not depend on the outputs' lengths."""
        return {"loss": "full"}

    def loss(self, batch: Batch) -> Tensor:
        return lm_loss(self.backbone, planned_states(self.backbone, self.policy, batch), batch.target_BG)
