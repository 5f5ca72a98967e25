"""Unified layer skipping: the layers that the released code keeps."""

import pytest
import torch

from baselines.unified import UnifiedLayerSkipping, spaced_plan
from skiplab.engine.decode import decode
from skiplab.methods.base import Optimization, Setup
from tests.tiny import PAD, prompts, tiny_backbone


@pytest.mark.parametrize(
    ("layers", "speedup", "plan"),
    [
        (30, 2, [*range(0, 27, 2), 29]),
        (30, 3, [*range(0, 25, 3), 29]),
        (30, 5, [0, 6, 12, 18, 24, 29]),
        (24, 5, [0, 8, 16, 23]),
        (12, 3, [0, 4, 8, 11]),
        (12, 2, [0, 2, 4, 6, 8, 11]),
        (12, 6, [0, 11]),
        (12, 1, list(range(12))),
        (2, 1, [0, 1]),
    ],
)
def test_kept_layers_are_those_of_the_released_code(layers: int, speedup: float, plan: list[int]) -> None:
    assert list(spaced_plan(layers, speedup)) == plan


def test_plans_have_both_ends_and_as_many_layers_as_the_speedup_allows() -> None:
    for layers in range(2, 49):
        for kept in range(2, layers + 1):
            plan = spaced_plan(layers, layers / (kept + 0.5)) if kept < layers else spaced_plan(layers, 1)
            assert len(plan) == kept
            assert list(plan) == sorted(set(plan))
            assert (plan[0], plan[-1]) == (0, layers - 1)


@pytest.mark.parametrize(("layers", "speedup"), [(12, 6.1), (12, 0.9), (3, 2)])
def test_a_speedup_out_of_reach_is_refused(layers: int, speedup: float) -> None:
    message = rf"speedup must lie between 1 and {layers / 2:g} for {layers} layers, got {speedup:g}"
    with pytest.raises(ValueError, match=message):
        spaced_plan(layers, speedup)


def test_the_prompt_has_full_depth_and_every_step_the_same_layers() -> None:
    setup = Setup(tiny_backbone(), [12], Optimization(learning_rate=1e-3))
    module = UnifiedLayerSkipping(setup, speedup=2)
    policy = module.exit_policy([])
    assert [policy.plan(step) for step in (0, 1, 50)] == [(0, 1, 2, 3, 4, 5), (0, 3, 5), (0, 3, 5)]
    result = decode(setup.backbone, policy, prompts(2), max_new_tokens=4, eos_id=None, pad_id=PAD)
    assert torch.equal(result.depth_BT, torch.tensor([[6, 3, 3, 3]] * 2, dtype=torch.int32))
    assert module.setting == "2x 3 layers"
    assert module.target_speedup == 2
    assert module.recipe == {"loss": "planned", "layers": [0, 3, 5]}
