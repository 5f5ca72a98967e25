"""LayerSkip's training (arXiv 2404.16710, section 4.1), against values computed by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.layerskip import LayerSkip, dropout_rate, exit_weights
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.engine.parallel_forward import layer_states, start
from skiplab.methods.base import Optimization, Setup
from skiplab.methods.losses import token_loss
from tests.test_conformance import some_batch
from tests.tiny import tiny_backbone


def build(backbone: Backbone, **options: Any) -> LayerSkip:
    options.setdefault("speedup", 1.5)
    return LayerSkip(Setup(backbone, [12, 14], Optimization(learning_rate=1e-3)), **options)


def layer_loss(backbone: Backbone, h_BTD: Tensor, batch: Batch) -> Tensor:
    return token_loss(backbone.head(h_BTD[:, batch.prompt_columns - 1 :]), batch.target_BG)


def test_dropout_is_equation_3() -> None:
    # exp(l ln 2 / 4) - 1 = 2 ** (l / 4) - 1 for five layers.
    for layer, expected in enumerate([0, 2**0.25 - 1, 2**0.5 - 1, 2**0.75 - 1, 1]):
        assert dropout_rate(layer, 5, 0.1) == pytest.approx(0.1 * expected)
    assert dropout_rate(0, 1, 0.1) == 0


def test_exit_weights_are_equation_6() -> None:
    # 0.2 times 0, 1, 3, 6 below the top, and 4 + 0.2 * 6 for the top: 0, 0.2, 0.6, 1.2, 5.2 of 7.2.
    expected = [weight / 7.2 for weight in (0, 0.2, 0.6, 1.2, 5.2)]
    assert exit_weights(5, 0.2, 1, 0) == pytest.approx(expected)
    assert exit_weights(5, 0.0, 1, 0) == [0, 0, 0, 0, 1]


def test_rotation_is_equation_5() -> None:
    # Two of five layers are left out at a time, the last never.
    assert exit_weights(5, 0.2, 2, 0) == pytest.approx([0, 0, 0.6 / 5.8, 0, 5.2 / 5.8])
    assert exit_weights(5, 0.2, 2, 1) == pytest.approx([0, 0.2 / 6.6, 0, 1.2 / 6.6, 5.2 / 6.6])
    assert exit_weights(5, 0.2, 2, 6) == exit_weights(5, 0.2, 2, 0)


@pytest.mark.parametrize("rotation", [1, 2, 3, 4, 7])
def test_weights_sum_to_one_and_every_layer_is_trained_in_turn(rotation: int) -> None:
    turns = [0] * 12
    for iteration in range(30, 30 + rotation):
        weights = exit_weights(12, 0.2, rotation, iteration)
        assert sum(weights) == pytest.approx(1)
        turns = [count + (weight > 0) for count, weight in zip(turns, weights, strict=True)]
    # Equation 6 gives the first layer no weight.
    assert turns == [0, *[1] * 10, rotation]


@torch.inference_mode()
@pytest.mark.parametrize(("training", "iteration"), [(False, 0), (False, 3), (True, 0), (True, 3)])
def test_without_dropout_the_loss_weights_the_layers(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, training: bool, iteration: int
) -> None:
    monkeypatch.setattr(LayerSkip, "global_step", iteration)
    batch, module = some_batch(), build(backbone, dropout=0, exit_scale=0.3, rotation=4).train(training)
    losses = [layer_loss(backbone, h, batch) for h in layer_states(backbone, batch.input_BT, batch.prompt_mask_BP)]
    weights = exit_weights(6, 0.3, 4 if training else 1, iteration)
    expected = sum(weight * float(loss) for weight, loss in zip(weights, losses, strict=True))
    assert float(module.loss(batch)) == pytest.approx(expected, rel=1e-5)


@torch.inference_mode()
def test_each_example_draws_the_layers_that_it_skips(backbone: Backbone) -> None:
    batch, module = some_batch(), build(backbone, dropout=0.9, rotation=1).train()
    torch.manual_seed(3)
    found = float(module.loss(batch))
    torch.manual_seed(3)
    h_BTD, context = start(backbone, batch.input_BT, batch.prompt_mask_BP)
    expected, skips = 0.0, []
    for layer, weight in enumerate(exit_weights(6, 0.2, 1, 0)):
        skip_B = torch.rand(len(h_BTD), 1, 1)[:, 0, 0] < 0.9 * (2 ** (layer / 5) - 1)
        run_BTD = backbone.layer(layer, h_BTD, context)
        h_BTD = torch.stack([h_BTD[row] if skip else run_BTD[row] for row, skip in enumerate(skip_B.tolist())])
        expected += weight * float(layer_loss(backbone, h_BTD, batch))
        skips.append(int(skip_B.sum()))
    assert found == pytest.approx(expected, rel=1e-5)
    assert skips[0] == 0
    assert any(0 < count < len(h_BTD) for count in skips)


@torch.inference_mode()
def test_dropout_acts_only_in_training(backbone: Backbone) -> None:
    batch, module = some_batch(), build(backbone, dropout=0.9, rotation=1)
    without = float(build(backbone, dropout=0, rotation=1).eval().loss(batch))
    assert {float(module.eval().loss(batch)) for _ in range(3)} == {without}
    assert len({float(module.train().loss(batch)) for _ in range(3)}) > 1


def test_one_training_serves_every_speedup() -> None:
    backbone = tiny_backbone()
    recipes = [build(backbone, speedup=speedup).recipe for speedup in (1.5, 2.5)]
    assert recipes[0] == recipes[1] == {"loss": "layerskip", "dropout": 0.1, "exit_scale": 0.2, "rotation": 4}
    for other in ({"dropout": 0.2}, {"exit_scale": 1.0}, {"rotation": 2}):
        assert build(backbone, **other).recipe != recipes[0]


@pytest.mark.parametrize("options", [{"dropout": 1.0}, {"dropout": -0.1}, {"exit_scale": -1.0}, {"rotation": 0}])
def test_bad_hyperparameters_say_what_is_wrong(options: dict[str, Any]) -> None:
    values = {"dropout": 0.1, "exit_scale": 0.2, "rotation": 4} | options
    message = ".*got {dropout:g}, {exit_scale:g} and {rotation}$".format(**values)
    with pytest.raises(ValueError, match=r"dropout in \[0, 1\), an exit_scale of at least 0" + message):
        build(tiny_backbone(), **options)


def test_equation_3_grows_to_the_largest_rate() -> None:
    rates = [dropout_rate(layer, 12, 0.3) for layer in range(12)]
    assert rates == sorted(rates)
    assert rates[0] == 0
    assert math.isclose(rates[-1], 0.3)
