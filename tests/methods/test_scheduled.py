"""Shared behaviour of methods with a fixed plan per step."""

from typing import Any

import pytest

from baselines.early_termination import EarlyTermination
from baselines.layerskip import LayerSkip
from baselines.multi_layer import MultiLayerExit
from skiplab.engine.backbone import Backbone
from skiplab.methods.base import ExitModule, Optimization, Setup
from skiplab.methods.distillation import planned_loss
from skiplab.methods.skipdecode import SkipDecode
from skiplab.schedules.exit_schedule import terminate_plan
from skiplab.schedules.schedule_solver import ScheduleSpec
from tests.test_conformance import some_batch
from tests.tiny import tiny_backbone

LENGTHS = [6, 9, 10, 12, 12, 14]


def setup(backbone: Backbone) -> Setup:
    return Setup(backbone, LENGTHS, Optimization(learning_rate=1e-3))


@pytest.mark.parametrize("kind", [EarlyTermination, LayerSkip, MultiLayerExit])
@pytest.mark.parametrize("options", [{"speedup": 2}, {"max_exit": 4, "min_exit": 2, "warmup": 2, "horizon": "p95"}])
def test_terminating_methods_have_the_depths_of_skipping(kind: type[ExitModule], options: dict[str, Any]) -> None:
    backbone = tiny_backbone()
    skipping = SkipDecode(setup(backbone), **options)
    terminating = kind(setup(backbone), **options)
    skip, terminate = (module.exit_policy([]) for module in (skipping, terminating))
    depths = [len(skip.plan(step)) for step in range(20)]
    assert [terminate.plan(step) for step in range(20)] == [terminate_plan(depth) for depth in depths]
    assert [skip.plan(step) for step in range(20)] != [terminate.plan(step) for step in range(20)]
    assert skipping.setting == terminating.setting == str(ScheduleSpec(**options))
    assert skipping.target_speedup == terminating.target_speedup == options.get("speedup")


def test_different_plans_have_different_recipes() -> None:
    backbone = tiny_backbone()
    recipes = [
        module.recipe
        for module in (
            SkipDecode(setup(backbone), speedup=2),
            SkipDecode(setup(backbone), speedup=2.5),
            SkipDecode(setup(backbone), speedup=2, horizon="half"),
            SkipDecode(setup(backbone), speedup=2, distill={"states": 1.0}),
            SkipDecode(setup(backbone), speedup=2, prompt={"form": "decay"}),
            SkipDecode(setup(backbone), speedup=2, prompt={"form": "ends", "from_layer": 3}),
            SkipDecode(setup(backbone), speedup=2, prompt={"form": "project", "from_layer": 3}),
            EarlyTermination(setup(backbone), speedup=2),
        )
    ]
    assert all(recipes.count(recipe) == 1 for recipe in recipes)
    assert SkipDecode(setup(backbone), speedup=2, horizon="median").recipe == recipes[0]


def test_multi_exit_models_serve_every_schedule() -> None:
    backbone = tiny_backbone()
    recipes = [MultiLayerExit(setup(backbone), speedup=speedup).recipe for speedup in (1.5, 2)]
    assert recipes[0] == recipes[1]


def test_a_prompt_plan_is_named_trained_and_decoded_with() -> None:
    backbone, batch = tiny_backbone(), some_batch()
    whole = SkipDecode(setup(backbone), speedup=2)
    module = SkipDecode(setup(backbone), speedup=2, prompt={"form": "decay", "end": 0.5}, distill={"states": 1.0})
    assert module.setting == "2x prompt decay 0-0.5 distilled states"
    policy = module.exit_policy([])
    assert [policy.plan(step) for step in range(1, 20)] == [whole.policy.plan(step) for step in range(1, 20)]
    assert policy.plan(0) == policy.plan(1)
    assert policy.prompt.mean_depth([20]) < 6
    plain = SkipDecode(setup(backbone), speedup=2, prompt={"form": "decay", "end": 0.5})
    assert plain.loss(batch) == planned_loss(backbone, policy, batch)
    assert plain.loss(batch) != whole.loss(batch)


def test_a_projected_prompt_is_refused_with_sharded_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SkipDecode(setup(tiny_backbone()), speedup=2, prompt={"form": "project", "from_layer": 3})
    monkeypatch.setattr(SkipDecode, "device_mesh", {"data_parallel": None})
    with pytest.raises(ValueError, match="form project cannot be trained with sharded weights"):
        module.configure_model()
