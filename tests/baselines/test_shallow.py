"""A shallow model: a fixed part of the layers, for the prompt too."""

from typing import Any

import pytest
import torch

from baselines.shallow import Shallow
from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.parallel_forward import causal_mask, planned_logits, positions
from skiplab.engine.policy import FullDepth
from skiplab.methods.base import Optimization, Setup
from skiplab.schedules.exit_schedule import LayerPlan
from tests.test_conformance import some_batch
from tests.tiny import tiny_backbone


def build(backbone: Backbone, **options: Any) -> Shallow:
    return Shallow(Setup(backbone, [12], Optimization(learning_rate=1e-3)), **options)


@pytest.mark.parametrize(
    ("options", "plan", "setting"),
    [
        ({"speedup": 2}, (0, 1, 2), "2x bottom 3"),
        ({"speedup": 2, "end": "top"}, (3, 4, 5), "2x top 3"),
        ({"speedup": 4.5}, (0,), "4.5x bottom 1"),
        ({"speedup": 1.3, "end": "top"}, (1, 2, 3, 4, 5), "1.3x top 5"),
        ({"speedup": 1}, (0, 1, 2, 3, 4, 5), "1x bottom 6"),
        ({"speedup": 6, "end": "top"}, (5,), "6x top 1"),
    ],
)
def test_every_step_runs_the_layers_of_one_end(options: dict[str, Any], plan: LayerPlan, setting: str) -> None:
    module = build(tiny_backbone(), **options)
    policy = module.exit_policy([])
    assert [policy.plan(step) for step in (0, 1, 30)] == [plan] * 3
    assert module.setting == setting
    assert module.target_speedup == 6 / len(plan)
    assert module.recipe == {"loss": "planned", "prompt_and_steps": list(plan)}


@torch.inference_mode()
@pytest.mark.parametrize(("end", "plan"), [("bottom", (0, 1, 2)), ("top", (3, 4, 5))])
def test_the_other_layers_have_no_effect(backbone: Backbone, end: str, plan: LayerPlan) -> None:
    batch, module = some_batch(), build(backbone, speedup=2, end=end)
    valid = torch.cat([batch.prompt_mask_BP, torch.ones_like(batch.target_BG[:, 1:], dtype=torch.bool)], dim=1)
    position = positions(valid)
    h_BTD = backbone.embed(batch.input_BT, position)
    context = Context(causal_mask(valid, h_BTD.dtype), rotary=backbone.rotary(position))
    for layer in plan:
        h_BTD = backbone.layer(layer, h_BTD, context)
    expected = backbone.head(h_BTD[:, batch.prompt_columns - 1 :])
    found = planned_logits(backbone, module.exit_policy([]), batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # Prefill runs only these layers too, so the first token's logits are not those of full depth.
    assert not torch.allclose(found[:, 0], planned_logits(backbone, FullDepth(6), batch)[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speedup": 7}, "speedup must lie between 1 and the 6 layers, got 7"),
        ({"speedup": 0.5}, "speedup must lie between 1 and the 6 layers, got 0.5"),
        ({"speedup": 2, "end": "middle"}, "unknown shallow end 'middle'; choose one of bottom, top"),
    ],
)
def test_bad_hyperparameters_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny_backbone(), **options)
