"""The loss in parts is the loss."""

import pytest
import torch

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE
from skiplab.methods import lm_loss as module
from skiplab.methods.lm_loss import lm_loss
from skiplab.methods.losses import token_loss
from tests.tiny import VOCABULARY, tiny_backbone

TARGET = torch.tensor([[3, 4, 5, IGNORE], [7, IGNORE, IGNORE, IGNORE], [9, 8, 7, 6]])


def loss_and_gradients(backbone: Backbone, exits: int) -> tuple[float, list[torch.Tensor], list[int]]:
    """And the tokens that each call of the head took."""
    torch.manual_seed(0)
    h_BGD = torch.randn(*TARGET.shape, backbone.hidden_size, requires_grad=True)
    calls: list[int] = []
    hook = backbone.model.lm_head.register_forward_hook(lambda *call: calls.append(call[2].shape[0]))
    loss = lm_loss(backbone, h_BGD, TARGET, exits=exits)
    loss.backward()
    hook.remove()
    assert h_BGD.grad is not None
    gradients = [h_BGD.grad, *(weight.grad.clone() for weight in backbone.head_weights() if weight.grad is not None)]
    backbone.zero_grad()
    return float(loss.detach()), gradients, calls


@pytest.mark.parametrize("layout", ["pre_norm", "post_norm"])
def test_parts_have_the_loss_and_gradients_of_the_whole(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone(layout)
    whole, expected, calls = loss_and_gradients(backbone, exits=1)
    assert calls == [8]
    monkeypatch.setattr(module, "_LOGITS", 6 * VOCABULARY)
    parts, actual, calls = loss_and_gradients(backbone, exits=2)
    # Forward, and again for the backward pass.
    assert sorted(calls) == [2, 2, 3, 3, 3, 3]
    assert parts == pytest.approx(whole)
    torch.testing.assert_close(actual, expected)


@torch.inference_mode()
def test_it_is_the_token_loss_of_the_heads_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    h_BGD = torch.randn(*TARGET.shape, backbone.hidden_size)
    expected = token_loss(backbone.head(h_BGD), TARGET)
    torch.testing.assert_close(lm_loss(backbone, h_BGD, TARGET), expected)
    monkeypatch.setattr(module, "_LOGITS", 1)
    torch.testing.assert_close(lm_loss(backbone, h_BGD, TARGET), expected)
