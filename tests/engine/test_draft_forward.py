"""The parallel forward of drafts is what a drafter computes in rounds."""

import pytest
import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.batch import Batch, collate
from skiplab.engine.draft_forward import drafted_states, full_pass
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.parallel_forward import causal_mask, planned_states, positions
from skiplab.engine.policy import ExitPolicy, FullDepth, Planned, Scheduled
from skiplab.schedules.exit_schedule import ExitSchedule, LayerPlan, skip_plan, terminate_plan
from tests.tiny import LAYOUTS, PAD, tiny_backbone

ALL = terminate_plan(6)
DRAFTERS: dict[str, ExitPolicy] = {
    "skip": Planned([ALL, skip_plan(6, 3, 1)]),
    "spaced": Planned([ALL, (0, 2, 4)]),
    "decay": Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=5), "skip"),
}


def examples() -> Batch:
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
    return collate(prompts, [[3, 4, 5, 6, 7, 8, 9, 10], [6] * 8, [9, 8, 7, 6, 5, 4, 3, 11]], PAD)


def drafted(backbone: Backbone, drafter: ExitPolicy, batch: Batch, length: int, first: int = 0) -> Tensor:
    return drafted_states(backbone, drafter, full_pass(backbone, batch), length=length, first=first)


def in_rounds(backbone: Backbone, drafter: ExitPolicy, batch: Batch, length: int, first: int) -> Tensor:
    """Round by round and token by token: full depth up to the round, then the drafter's layers."""
    prompt, states = batch.prompt_columns, []
    generated = torch.ones(len(batch.input_BT), batch.decode_steps, dtype=torch.bool)
    valid_BT = torch.cat([batch.prompt_mask_BP, generated], dim=1)
    tokens = batch.input_BT, positions(valid_BT), valid_BT
    for step in range(1, batch.decode_steps + 1):
        start = max(0, (step - 1 + first) // length * length - first)
        cache = backbone.new_cache(len(batch.input_BT), [batch.input_BT.shape[1]] * 6)
        run(backbone, ALL, *tokens, slice(0, prompt + start), cache)
        drafts = [
            run(backbone, drafter.plan(column - prompt + 1), *tokens, slice(column, column + 1), cache)
            for column in range(prompt + start, prompt + step)
        ]
        states.append(drafts[-1])
    return torch.cat(states, dim=1)


def run(
    backbone: Backbone,
    plan: LayerPlan,
    ids_BT: Tensor,
    position_BT: Tensor,
    valid_BT: Tensor,
    place: slice,
    cache: KVCache,
) -> Tensor:
    cache.seek(place.start)
    mask_B1TT = causal_mask(valid_BT, torch.float32, always=True)
    assert mask_B1TT is not None
    position = position_BT[:, place]
    context = Context(mask_B1TT[:, :, place, : place.stop], cache, backbone.rotary(position))
    h = backbone.embed(ids_BT[:, place], position)
    for layer in plan:
        h = backbone.layer(layer, h, context)
    return h


@pytest.mark.parametrize(("length", "first"), [(1, 0), (3, 0), (3, 2), (4, 1), (20, 0)])
@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_drafts_see_full_depth_before_their_round(layout: str, drafter: ExitPolicy, length: int, first: int) -> None:
    backbone, batch = tiny_backbone(layout), examples()
    full_BGD, drafted_BND = full_pass(backbone, batch).states_BGD, drafted(backbone, drafter, batch, length, first)
    torch.testing.assert_close(full_BGD, planned_states(backbone, FullDepth(6), batch), rtol=1e-4, atol=1e-4)
    # The values reach 5.
    torch.testing.assert_close(drafted_BND, in_rounds(backbone, drafter, batch, length, first), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_bottom_layers_draft_what_they_compute_alone(layout: str) -> None:
    """Their keys and values are those of full depth, however long the rounds."""
    backbone, batch, drafter = tiny_backbone(layout), examples(), Planned([ALL, terminate_plan(2)])
    alone_BGD = planned_states(backbone, drafter, batch)
    for length in (1, 4, 20):
        drafted_BND = drafted(backbone, drafter, batch, length)
        torch.testing.assert_close(drafted_BND, alone_BGD[:, 1:], rtol=1e-4, atol=1e-4)


def test_one_token_leaves_nothing_to_draft() -> None:
    backbone = tiny_backbone()
    full = full_pass(backbone, collate([[5, 6]], [[3]], PAD))
    assert full.states_BGD.shape[1] == 1
    assert drafted_states(backbone, DRAFTERS["skip"], full, length=4).shape[1] == 0


def test_gradients_reach_full_depth_through_its_keys_and_values() -> None:
    """Layer 1 does not draft, but the keys and values of full depth above it come from its states."""
    backbone = tiny_backbone()
    drafted(backbone, DRAFTERS["skip"], examples(), 2).square().sum().backward()
    assert 1 not in DRAFTERS["skip"].plan(1)
    gradient = next(backbone.layers[1].parameters()).grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
