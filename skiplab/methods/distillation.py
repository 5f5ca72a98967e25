"""Training under a plan, with distillation from the full model.

Shapes: B rows, G generated columns, D hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.engine.parallel_forward import planned_states
from skiplab.engine.policy import ExitPolicy, FullDepth
from skiplab.methods.lm_loss import Taught, lm_loss
from skiplab.methods.losses import state_distance


@final
@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Weights of the distillation losses, added to the loss on the references.

    Args:
        logits: weight of the KL divergence from its next-token distributions.
        states: weight of the relative squared distance from the states that its head takes.
        temperature: of the divergence.
    """

    logits: float = 0.0
    states: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.logits < 0 or self.states < 0 or not self.temperature > 0:
            raise ValueError(
                f"distill takes weights of at least 0 and a temperature above 0, got logits={self.logits:g}, "
                f"states={self.states:g}, temperature={self.temperature:g}"
            )

        if self.temperature != 1 and not self.logits:
            raise ValueError("distill has a temperature but no weight for the logits; give it as logits=WEIGHT")

    @classmethod
    def of(cls, options: "Mapping[str, float] | None") -> "Distillation":
        """Made from a method's `distill` node; None disables distillation."""
        return cls(**(options or {}))

    @property
    def parts(self) -> list[str]:
        """Names of the distillation losses in use."""
        return [name for name in ("logits", "states") if getattr(self, name)]

    @property
    def recipe(self) -> dict[str, Any]:
        """Its entries of a module's recipe; empty without distillation."""
        return {"distill": vars(self)} if self.parts else {}

    @property
    def suffix(self) -> str:
        """Suffix of a setting's name: the losses, with weights and temperature that differ from 1."""
        if not self.parts:
            return ""
        weighed = [name if getattr(self, name) == 1 else f"{getattr(self, name):g}*{name}" for name in self.parts]
        return f" distilled {'+'.join(weighed)}" + (f" at {self.temperature:g}" if self.temperature != 1 else "")


def planned_loss(
    backbone: Backbone,
    policy: ExitPolicy,
    batch: Batch,
    *,
    teacher: Backbone | None = None,
    distillation: Distillation | None = None,
) -> Tensor:
    """The LM loss of the function that decoding under the plans computes, and its distance from the full model.

    Raises:
        ValueError: distillation is asked for without a teacher.
    """
    h_BGD = planned_states(backbone, policy, batch)
    if distillation is None or not distillation.parts:
        return lm_loss(backbone, h_BGD, batch.target_BG)
    if teacher is None:
        raise ValueError("distillation needs the full model: give Setup a teacher")
    with torch.no_grad():
        taught_BGD = planned_states(teacher, FullDepth(teacher.num_layers), batch)
    taught = None
    if distillation.logits:
        taught = Taught(teacher, taught_BGD, distillation.logits, distillation.temperature)
    loss = lm_loss(backbone, h_BGD, batch.target_BG, taught)
    if distillation.states:
        loss = loss + distillation.states * state_distance(h_BGD, taught_BGD, batch.target_BG)
    return loss
