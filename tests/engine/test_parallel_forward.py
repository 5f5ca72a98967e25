"""The prefix-sliced forward."""

import torch

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import collate
from skiplab.engine.parallel_forward import causal_mask, forward, layer_states, planned_logits, positions
from skiplab.engine.policy import FullDepth, Scheduled
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import PAD, prompts


def test_positions_count_real_tokens() -> None:
    valid = torch.tensor([[False, True, True], [True, True, True]])
    assert positions(valid).tolist() == [[0, 0, 1], [0, 1, 2]]


def test_mask_hides_the_future_and_padding() -> None:
    assert causal_mask(torch.ones(2, 3, dtype=torch.bool), torch.float32) is None
    mask = causal_mask(torch.tensor([[False, True, True]]), torch.float32)
    assert mask is not None
    assert (mask[0, 0] == 0).tolist() == [[True, False, False], [False, True, False], [False, True, True]]


@torch.inference_mode()
def test_a_layer_changes_only_its_columns(backbone: Backbone) -> None:
    batch = collate(prompts(3), prompts(3, seed=9), PAD)
    columns = batch.input_BT.shape[1]
    before = [None, *layer_states(backbone, batch.input_BT, batch.prompt_mask_BP, columns_L=[columns, 2, 0, 1, 3, 0])]
    for layer, run in enumerate([2, 0, 1, 3, 0], start=1):
        old, new = before[layer], before[layer + 1]
        assert old is not None
        assert new is not None
        assert torch.equal(new[:, run:], old[:, run:])
        assert not run or not torch.equal(new[:, :run], old[:, :run])


@torch.inference_mode()
def test_the_first_token_always_has_full_depth(backbone: Backbone) -> None:
    batch = collate(prompts(3), prompts(3, seed=9), PAD)
    schedule = ExitSchedule(num_layers=6, max_exit=2, min_exit=2, horizon=5)
    shallow = planned_logits(backbone, Scheduled(schedule, "skip"), batch)
    full = planned_logits(backbone, FullDepth(6), batch)
    torch.testing.assert_close(shallow[:, 0], full[:, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(shallow[:, 1], full[:, 1])


def test_gradients_reach_the_embedding_through_skipped_layers(backbone: Backbone) -> None:
    batch = collate(prompts(2), prompts(2, seed=9), PAD)
    h = forward(backbone, batch.input_BT, batch.prompt_mask_BP, columns_L=[2] * 6)
    h.square().sum().backward()
    assert all(weight.grad is not None for layer in range(6) for weight in backbone.layer_weights(layer))
