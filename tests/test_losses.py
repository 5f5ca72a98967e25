"""Loss functions by hand."""

import math

import pytest
import torch

from skiplab.batch import IGNORE
from skiplab.losses import token_loss, weighted_layer_loss


def test_token_loss_counts_generated_tokens_only() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = math.log(5)
    target = torch.tensor([[2, 1, IGNORE]])
    # Probabilities 5/8 and 1/4.
    assert float(token_loss(logits, target)) == pytest.approx((math.log(8 / 5) + math.log(4)) / 2)


def test_layer_weights_are_layer_numbers() -> None:
    losses = torch.tensor([6.0, 3.0, 2.0])
    assert float(weighted_layer_loss(losses)) == pytest.approx((1 * 6 + 2 * 3 + 3 * 2) / 6)
