"""The language-model loss of states, with a bound on the logits in memory at once.

Shapes: B rows, G generated columns, N generated tokens, D hidden size, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE

_LOGITS = 2**28


def lm_loss(backbone: Backbone, h_BGD: Tensor, target_BG: Tensor, *, exits: int = 1) -> Tensor:
    """Mean cross entropy of generated tokens under what the head makes of their states, in nats.

    Logits are computed for real tokens only. Above 1 GiB in float32 they are computed in parts, which the
    backward pass recomputes.

    Args:
        exits: how many such losses a training step adds up.
    """
    real = target_BG != IGNORE
    h_ND, target_N = h_BGD[real], target_BG[real]
    vocab_size = backbone.model.config.vocab_size
    if len(target_N) * vocab_size * exits <= _LOGITS:
        return F.cross_entropy(backbone.head(h_ND), target_N)

    def summed(h_ND: Tensor, target_N: Tensor) -> Tensor:
        return F.cross_entropy(backbone.head(h_ND), target_N, reduction="sum")

    rows = max(1, _LOGITS // vocab_size // exits)
    parts = zip(h_ND.split(rows), target_N.split(rows), strict=True)
    return torch.stack([checkpoint(summed, *part, use_reentrant=False) for part in parts]).sum() / len(target_N)
