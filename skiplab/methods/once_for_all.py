"""One model for all schedules: fine-tuned under a new random plan for each batch.

After Once-for-All (Cai et al., arXiv 1908.09791), whose one supernet serves subnetworks of any depth; here a nested
plan is drawn. It decodes under a schedule without further training, and a search evaluates schedules with it.
"""

import random
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.engine.policy import Planned
from skiplab.methods.base import Setup
from skiplab.methods.distillation import planned_loss
from skiplab.methods.scheduled import ScheduledModule
from skiplab.schedules.nested_plan import random_plan


@final
class OnceForAll(ScheduledModule):
    """Fine-tunes under random nested plans, decodes under one skip schedule.

    Args:
        lowest: minimum depth that is drawn.
        schedule: keywords of `ScheduleSpec`.
    """

    def __init__(self, setup: Setup, *, lowest: int = 2, **schedule: Any) -> None:
        super().__init__(setup, "skip", **schedule)
        if not 1 <= lowest <= setup.backbone.num_layers:
            raise ValueError(f"lowest must lie between 1 and {setup.backbone.num_layers} layers, got {lowest}")
        self._lowest = lowest

    def shared_recipe(self) -> Mapping[str, Any]:
        """One training serves all schedules."""
        return {"loss": "once_for_all", "lowest": self._lowest}

    def loss(self, batch: Batch) -> Tensor:
        policy = drawn_policy(self.backbone.num_layers, batch.decode_steps, self._lowest)
        return planned_loss(self.backbone, policy, batch)


def drawn_policy(num_layers: int, steps: int, lowest: int) -> Planned:
    """A random nested plan for a training step, drawn from torch's generator, which trainers seed.

    Args:
        steps: decode steps of the batch.
        lowest: minimum depth.
    """
    rng = random.Random(int(torch.randint(2**31, ())))
    return Planned(random_plan(rng, num_layers, max(2, steps), lowest).plans())
