"""The loss computed in parts equals the loss."""

import itertools

import pytest
import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE
from skiplab.methods import lm_loss as module
from skiplab.methods.lm_loss import Taught, exits_loss, lm_loss
from skiplab.methods.losses import divergence, token_loss
from tests.tiny import LAYOUTS, VOCABULARY, tiny_backbone

TARGET = torch.tensor([[3, 4, 5, IGNORE], [7, IGNORE, IGNORE, IGNORE], [9, 8, 7, 6]])
WEIGHTS = [0.25, 0.0, 1.5]


@pytest.fixture(params=[(1, 10**6), (5, 10**6), (5, 2), (100, 3)], ids=str)
def in_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the number of tokens whose logits are in memory at a time, and whose softmax is computed at a time."""
    rows, block = request.param
    monkeypatch.setattr(module, "_SMALL", 0)
    monkeypatch.setattr(module, "_PART", rows * VOCABULARY)
    monkeypatch.setattr(module, "_BLOCK", block * VOCABULARY)


def exit_states(backbone: Backbone) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*TARGET.shape, backbone.hidden_size, requires_grad=True) for _ in WEIGHTS]


def loss_and_gradients(backbone: Backbone, loss: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    (3 * loss).backward()
    gradients = [weight.grad for weight in itertools.chain(states, backbone.head_weights())]
    backbone.zero_grad()
    return loss.detach(), gradients


def by_autograd(backbone: Backbone, states: list[Tensor]) -> Tensor:
    losses = [weight * token_loss(backbone.head(h_BGD), TARGET) for weight, h_BGD in zip(WEIGHTS, states, strict=True)]
    return torch.stack(losses).sum()


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_have_the_loss_and_gradients_that_autograd_finds(layout: str) -> None:
    backbone = tiny_backbone(layout)
    states, other = exit_states(backbone), exit_states(backbone)
    expected, expected_gradients = loss_and_gradients(backbone, by_autograd(backbone, states), states)
    loss, gradients = loss_and_gradients(backbone, exits_loss(backbone, other, WEIGHTS, TARGET), other)
    torch.testing.assert_close(loss, expected)
    assert expected_gradients.pop(1) is not None
    assert gradients.pop(1) is None
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("alone", [False, True])
def test_a_divergence_is_added_or_is_the_whole_loss(alone: bool) -> None:
    backbone, teacher = tiny_backbone(), tiny_backbone(seed=1)
    h_BGD, other_BGD, taught_BGD = exit_states(backbone)
    other_BGD = h_BGD.detach().clone().requires_grad_()
    logits_BGV = backbone.head(h_BGD)
    distance = divergence(logits_BGV, teacher.head(taught_BGD).detach(), TARGET, temperature=2)
    expected = 0.5 * distance if alone else token_loss(logits_BGV, TARGET) + 0.5 * distance
    expected, expected_gradients = loss_and_gradients(backbone, expected, [h_BGD])
    loss = lm_loss(backbone, other_BGD, TARGET, Taught(teacher, taught_BGD, weight=0.5, temperature=2, alone=alone))
    loss, gradients = loss_and_gradients(backbone, loss, [other_BGD])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_differs_only_by_rounding(dtype: torch.dtype) -> None:
    backbone = tiny_backbone()
    states, other = exit_states(backbone), exit_states(backbone)
    expected, expected_gradients = loss_and_gradients(backbone, by_autograd(backbone, states), states)
    with torch.autocast("cpu", dtype=dtype):
        loss = exits_loss(backbone, other, WEIGHTS, TARGET)
    assert loss.dtype == torch.float32
    loss, gradients = loss_and_gradients(backbone, loss, other)
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    for actual, exact in zip(gradients, expected_gradients, strict=True):
        if actual is not None:
            assert exact is not None
            assert actual.dtype == torch.float32
            assert (actual - exact).norm() < 2e-2 * exact.norm()


@pytest.mark.usefixtures("in_parts")
def test_only_logits_of_real_tokens_are_computed_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, rows = tiny_backbone(), []
    inner = module._cross_entropy

    def counting(logits_RV: Tensor, target_R1: Tensor) -> tuple[Tensor, Tensor]:
        rows.append(len(logits_RV))
        return inner(logits_RV, target_R1)

    monkeypatch.setattr(module, "_cross_entropy", counting)
    exits_loss(backbone, exit_states(backbone), WEIGHTS, TARGET).backward()
    assert sum(rows) == 2 * 8


@pytest.mark.usefixtures("in_parts")
def test_a_frozen_head_gets_no_gradient() -> None:
    backbone = tiny_backbone()
    backbone.requires_grad_(requires_grad=False)
    (h_BGD, *_), (other_BGD, *_) = exit_states(backbone), exit_states(backbone)
    token_loss(backbone.head(h_BGD), TARGET).backward()
    lm_loss(backbone, other_BGD, TARGET).backward()
    torch.testing.assert_close(other_BGD.grad, h_BGD.grad)
    assert backbone.head_weight.grad is None


@pytest.mark.usefixtures("in_parts")
@torch.inference_mode()
def test_without_gradients_the_loss_is_the_same() -> None:
    backbone = tiny_backbone()
    h_BGD = torch.randn(*TARGET.shape, backbone.hidden_size)
    torch.testing.assert_close(lm_loss(backbone, h_BGD, TARGET), token_loss(backbone.head(h_BGD), TARGET))


@torch.inference_mode()
def test_few_logits_go_through_autograd_at_once() -> None:
    backbone = tiny_backbone()
    h_BGD = torch.randn(*TARGET.shape, backbone.hidden_size)
    torch.testing.assert_close(lm_loss(backbone, h_BGD, TARGET), token_loss(backbone.head(h_BGD), TARGET))
