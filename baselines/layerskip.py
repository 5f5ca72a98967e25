"""LayerSkip's training (arXiv 2404.16710, section 4.1), decoded by termination or by self-speculation.

Layer dropout that grows with depth, and an early-exit loss on a subset of layers that rotates by iteration. One
model for every depth; decoding terminates at the depths that SkipDecode runs for the same speedup.

With `draft` early exits draft and the full model verifies them, as in the paper; without it they are final.

Deviations: the last layer is always part of the loss, as in the released recipe (torchtune); verification runs all
layers again, where the paper keeps the states of the drafted ones.
"""

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.engine.draft_length import Drafting
from skiplab.engine.parallel_forward import start
from skiplab.engine.policy import Scheduled
from skiplab.engine.speculative import Speculative
from skiplab.methods.base import Setup
from skiplab.methods.lm_loss import exits_loss
from skiplab.methods.scheduled import ScheduledModule


def dropout_rate(layer: int, num_layers: int, largest: float) -> float:
    """Equation 3: `largest * (exp(layer ln 2 / (num_layers - 1)) - 1)`, 0 for the first, `largest` for the last."""
    return largest * (math.exp(layer * math.log(2) / max(1, num_layers - 1)) - 1)


def exit_weights(num_layers: int, scale: float, rotation: int, iteration: int) -> list[float]:
    """Equations 5 and 6: each layer's weight in the loss at an iteration, 0 for layers left out; the weights sum to 1.

    Every `rotation`-th layer takes part, shifted by one layer each iteration, and the last always.
    """
    last = num_layers - 1
    weights = [scale * layer * (layer + 1) / 2 for layer in range(last)] + [last + scale * (last - 1) * last / 2]
    weights = [
        weight if layer == last or layer % rotation == iteration % rotation else 0.0
        for layer, weight in enumerate(weights)
    ]
    return [weight / sum(weights) for weight in weights]


@final
class LayerSkip(ScheduledModule):
    """Trains with layer dropout and rotating early-exit losses; further keywords are those of `ScheduleSpec`.

    Args:
        dropout: probability that an example skips the last layer, in [0, 1).
        exit_scale: weight of the early exits against the last layer.
        rotation: every `rotation`-th layer is trained as an exit at a time.
        draft: keywords of `Drafting`; None takes early exits as they are.
    """

    policy: Scheduled | Speculative

    def __init__(
        self,
        setup: Setup,
        *,
        dropout: float = 0.1,
        exit_scale: float = 0.2,
        rotation: int = 4,
        draft: Mapping[str, Any] | None = None,
        **schedule: Any,
    ) -> None:
        super().__init__(setup, **schedule)
        if draft is not None:
            drafting = Drafting(**draft)
            drafting.check_fits(setup.backbone.max_positions)
            self.policy = Speculative(self.policy, setup.backbone.num_layers, drafting)
        if not 0 <= dropout < 1 or exit_scale < 0 or rotation < 1:
            raise ValueError(
                "layerskip needs a dropout in [0, 1), an exit_scale of at least 0 and a rotation of at least 1, got "
                f"{dropout:g}, {exit_scale:g} and {rotation}"
            )
        self._dropout = dropout
        self._exit_scale = exit_scale
        self._rotation = rotation

    @property
    def setting(self) -> str:
        drafted = f" {self.policy.drafting}" if isinstance(self.policy, Speculative) else ""
        return f"{super().setting}{drafted}"

    def shared_recipe(self) -> Mapping[str, Any]:
        """One training serves all depths."""
        return {
            "loss": "layerskip",
            "dropout": self._dropout,
            "exit_scale": self._exit_scale,
            "rotation": self._rotation,
        }

    def loss(self, batch: Batch) -> Tensor:
        layers = self.backbone.num_layers
        rotation = self._rotation if self.training else 1
        weights = exit_weights(layers, self._exit_scale, rotation, self.global_step)
        h_BTD, context = start(self.backbone, batch.input_BT, batch.prompt_mask_BP)
        states = []
        for layer in range(layers):
            run_BTD = self.backbone.layer(layer, h_BTD, context)
            h_BTD = torch.where(self._dropped(layer, h_BTD), h_BTD, run_BTD)
            states.append(h_BTD[:, batch.prompt_columns - 1 :])
        return exits_loss(self.backbone, states, weights, batch.target_BG)

    def _dropped(self, layer: int, h_BTD: Tensor) -> Tensor:
        """Examples that skip the layer, (B, 1, 1); none outside training."""
        rate = dropout_rate(layer, self.backbone.num_layers, self._dropout) if self.training else 0.0
        return torch.rand(len(h_BTD), 1, 1, device=h_BTD.device) < rate
