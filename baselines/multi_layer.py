"""Multi-layer exit: one model, trained to predict at every layer, that exits early.

The LM loss at every layer with weights proportional to the layer's number, one shared final norm and
head (the training of CALM, arXiv 2207.07061, equation 6; the "multi-layer" baseline of SkipDecode,
arXiv 2307.02628, section 4). Decoding terminates at the depths that SkipDecode runs for the same
target speedup.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.engine.parallel_forward import layer_states
from skiplab.methods.lm_loss import lm_loss
from skiplab.methods.losses import weighted_layer_loss
from skiplab.methods.scheduled import ScheduledModule

RECIPE: Mapping[str, Any] = MappingProxyType({"loss": "every_layer", "weights": "layer_number"})


def every_layer_loss(backbone: Backbone, batch: Batch) -> Tensor:
    """The weighted mean of the token losses of all layers."""
    return weighted_layer_loss(
        lm_loss(backbone, h_BTD[:, batch.prompt_columns - 1 :], batch.target_BG, exits=backbone.num_layers)
        for h_BTD in layer_states(backbone, batch.input_BT, batch.prompt_mask_BP)
    )


@final
class MultiLayerExit(ScheduledModule):
    """Trains every layer as an exit, terminates by schedule; keywords are those of `ScheduleSpec`."""

    def shared_recipe(self) -> Mapping[str, Any]:
        """One training serves all depths, and CALM."""
        return RECIPE

    def loss(self, batch: Batch) -> Tensor:
        return every_layer_loss(self.backbone, batch)
