"""Pure loss functions.

Shapes: B rows, G generated columns, V vocabulary, L layers.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.batch import IGNORE


def token_loss(logits_BGV: Tensor, target_BG: Tensor) -> Tensor:
    """Mean cross entropy over generated tokens, in nats."""
    return F.cross_entropy(logits_BGV.flatten(0, 1), target_BG.flatten(), ignore_index=IGNORE)


def weighted_layer_loss(loss_L: Iterable[Tensor]) -> Tensor:
    """Mean of the layers' losses with weights proportional to the layer's number from 1 (CALM, equation 6)."""
    stacked = torch.stack(list(loss_L))
    weight_L = torch.arange(1, len(stacked) + 1, dtype=stacked.dtype, device=stacked.device)
    return (weight_L * stacked).sum() / weight_L.sum()
