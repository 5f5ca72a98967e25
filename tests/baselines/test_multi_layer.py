"""Training with an exit at every layer."""

import itertools

import pytest
import torch

from baselines.calm import CALM
from baselines.multi_layer import MultiLayerExit, every_layer_loss, exit_weights
from skiplab.engine.parallel_forward import layer_states
from skiplab.methods.base import Optimization, Setup
from skiplab.methods.losses import token_loss
from tests.test_conformance import some_batch
from tests.tiny import tiny_backbone

SETUP = Setup(tiny_backbone(), [12, 14], Optimization(learning_rate=1e-3))


def test_the_loss_weights_each_layers_loss_by_its_number() -> None:
    backbone, batch = tiny_backbone(), some_batch()
    with torch.inference_mode():
        states = list(layer_states(backbone, batch.input_BT, batch.prompt_mask_BP))
        losses = [token_loss(backbone.head(h_BTD[:, batch.prompt_columns - 1 :]), batch.target_BG) for h_BTD in states]
        expected = sum(number * loss for number, loss in enumerate(losses, start=1)) / sum(range(1, 7))
        torch.testing.assert_close(every_layer_loss(backbone, batch), expected)


@pytest.mark.parametrize("drawn", [1, 2, 5])
def test_drawn_exits_are_unbiased_and_always_hold_the_last(drawn: int) -> None:
    # Averaging over all sets of exits, which are equally likely, gives the expectation.
    subsets = {}
    for seed in range(200):
        torch.manual_seed(seed)
        weights = exit_weights(6, drawn)
        subsets[tuple(layer for layer, weight in enumerate(weights) if weight)] = weights
    assert sorted(subsets) == [(*below, 5) for below in itertools.combinations(range(5), drawn)]
    means = [sum(column) / len(subsets) for column in zip(*subsets.values(), strict=True)]
    assert means == pytest.approx([number / 21 for number in range(1, 7)])


def test_training_all_exits_uses_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert exit_weights(6, None) == pytest.approx([number / 21 for number in range(1, 7)])
    assert torch.equal(torch.get_rng_state(), before)


@torch.inference_mode()
def test_exits_are_drawn_in_training_and_all_used_in_validation() -> None:
    batch = some_batch()
    for module in (MultiLayerExit(SETUP, speedup=1.5, drawn_exits=2), CALM(SETUP, speedup=1.5, exits={"drawn": 2})):
        losses = {float(module.train().loss(batch)) for _ in range(8)}
        assert len(losses) > 2
        assert {float(module.eval().loss(batch)) for _ in range(3)} == {float(every_layer_loss(SETUP.backbone, batch))}


def test_calm_shares_the_training_with_as_many_drawn_exits() -> None:
    alike = [MultiLayerExit(SETUP, speedup=2.5, drawn_exits=3), CALM(SETUP, threshold=0.5, exits={"drawn": 3})]
    assert alike[0].recipe == alike[1].recipe == {"loss": "every_layer", "weights": "layer_number", "drawn_exits": 3}
    assert [module.setting for module in alike] == ["2.5x 3 drawn exits", "softmax 0.5 3 drawn exits"]
    every = [MultiLayerExit(SETUP, speedup=1.5), CALM(SETUP, threshold=0.5)]
    assert every[0].recipe == every[1].recipe == {"loss": "every_layer", "weights": "layer_number"}


@pytest.mark.parametrize("drawn", [0, 6])
def test_more_exits_than_there_are_cannot_be_drawn(drawn: int) -> None:
    with pytest.raises(
        ValueError, match=f"drawn_exits must lie between 1 and the 5 layers below the last, got {drawn}"
    ):
        MultiLayerExit(SETUP, speedup=1.5, drawn_exits=drawn)
    with pytest.raises(ValueError, match="drawn_exits must lie between 1 and the 5 layers"):
        CALM(SETUP, speedup=1.5, exits={"drawn": drawn})
