"""The training of every layer as an exit."""

import torch

from baselines.multi_layer import every_layer_loss
from skiplab.engine.parallel_forward import layer_states
from skiplab.methods.losses import token_loss
from tests.test_conformance import some_batch
from tests.tiny import tiny_backbone


def test_the_loss_weights_each_layers_loss_by_its_number() -> None:
    backbone, batch = tiny_backbone(), some_batch()
    with torch.inference_mode():
        states = list(layer_states(backbone, batch.input_BT, batch.prompt_mask_BP))
        losses = [token_loss(backbone.head(h_BTD[:, batch.prompt_columns - 1 :]), batch.target_BG) for h_BTD in states]
        expected = sum(number * loss for number, loss in enumerate(losses, start=1)) / sum(range(1, 7))
        torch.testing.assert_close(every_layer_loss(backbone, batch), expected)
