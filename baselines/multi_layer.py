"""Multi-layer exit: one model, trained to predict at every layer, that exits early.

The LM loss at every layer with weights proportional to the layer's number, one shared final norm and
head (the training of CALM, arXiv 2207.07061, equation 6; the "multi-layer" baseline of SkipDecode,
arXiv 2307.02628, section 4). Decoding terminates at the depths that SkipDecode runs for the same
target speedup.
"""

from abc import ABC
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.engine.parallel_forward import layer_states
from skiplab.methods.base import ExitModule, Setup
from skiplab.methods.lm_loss import exits_loss
from skiplab.methods.scheduled import ScheduledModule


def check_drawn_exits(drawn_exits: int | None, num_layers: int) -> None:
    """Refuse a number of drawn exits that the backbone does not have.

    Raises:
        ValueError: it is not from 1 to the number of layers below the last.
    """
    if drawn_exits is not None and not 1 <= drawn_exits < num_layers:
        raise ValueError(
            f"drawn_exits must lie between 1 and the {num_layers - 1} layers below the last, got {drawn_exits}; null "
            "trains all exits at each step"
        )


def exit_weights(num_layers: int, drawn_exits: int | None) -> list[float]:
    """Each layer's share of the loss at a step, proportional to its number from 1.

    Args:
        drawn_exits: layers below the last that take part, drawn uniformly from torch's generator; the others have
            weight 0. Those drawn are weighted up by the inverse of their chance, so that the expected loss is that
            of all exits. None takes all.
    """
    total = num_layers * (num_layers + 1) / 2
    weights = [number / total for number in range(1, num_layers + 1)]
    if drawn_exits is None:
        return weights
    below = num_layers - 1
    taken = set(torch.randperm(below)[:drawn_exits].tolist())
    drawn = [weight * below / drawn_exits if layer in taken else 0.0 for layer, weight in enumerate(weights[:below])]
    return [*drawn, weights[below]]


def every_layer_loss(backbone: Backbone, batch: Batch, drawn_exits: int | None = None) -> Tensor:
    """The weighted mean of the token losses of all layers, or an unbiased estimate from some of them.

    Args:
        drawn_exits: as for `exit_weights`.
    """
    weights = exit_weights(backbone.num_layers, drawn_exits)
    states = layer_states(backbone, batch.input_BT, batch.prompt_mask_BP)
    generated = (h_BTD[:, batch.prompt_columns - 1 :] for h_BTD in states)
    return exits_loss(backbone, generated, weights, batch.target_BG)


class EveryLayerTrained(ExitModule, ABC):
    """A module trained to predict at every layer. A subclass sets the attribute.

    Attributes:
        drawn_exits: layers below the last that are trained as exits at a step; None is all.
    """

    drawn_exits: int | None

    def shared_recipe(self) -> Mapping[str, Any]:
        """One training serves all depths, confidences and thresholds."""
        drawn = {} if self.drawn_exits is None else {"drawn_exits": self.drawn_exits}
        return {"loss": "every_layer", "weights": "layer_number", **drawn}

    def loss(self, batch: Batch) -> Tensor:
        return every_layer_loss(self.backbone, batch, self.drawn_exits if self.training else None)


@final
class MultiLayerExit(EveryLayerTrained, ScheduledModule):
    """Trains every layer as an exit, terminates by schedule; further keywords are those of `ScheduleSpec`.

    Args:
        drawn_exits: how many layers below the last are trained as exits at a step, drawn anew for each; the head's
            share of the training becomes cheaper. None trains all.
    """

    def __init__(self, setup: Setup, *, drawn_exits: int | None = None, **schedule: Any) -> None:
        super().__init__(setup, **schedule)
        check_drawn_exits(drawn_exits, setup.backbone.num_layers)
        self.drawn_exits = drawn_exits

    @property
    def setting(self) -> str:
        drawn = "" if self.drawn_exits is None else f" {self.drawn_exits} drawn exits"
        return f"{super().setting}{drawn}"
