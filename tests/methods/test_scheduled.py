"""Shared behaviour of methods with a fixed plan per step."""

from typing import Any

import pytest

from baselines.early_termination import EarlyTermination
from baselines.layerskip import LayerSkip
from baselines.multi_layer import MultiLayerExit
from skiplab.engine.backbone import Backbone
from skiplab.methods.base import ExitModule, Optimization, Setup
from skiplab.methods.skipdecode import SkipDecode
from skiplab.schedules.exit_schedule import terminate_plan
from skiplab.schedules.schedule_solver import ScheduleSpec
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
            EarlyTermination(setup(backbone), speedup=2),
        )
    ]
    assert all(recipes.count(recipe) == 1 for recipe in recipes)
    assert SkipDecode(setup(backbone), speedup=2, horizon="median").recipe == recipes[0]


def test_multi_exit_models_serve_every_schedule() -> None:
    backbone = tiny_backbone()
    recipes = [MultiLayerExit(setup(backbone), speedup=speedup).recipe for speedup in (1.5, 2)]
    assert recipes[0] == recipes[1]
