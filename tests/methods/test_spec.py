"""`MethodSpec`: a setting without weights, and the training that it shares."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.calm import CALM
from baselines.calm_policy import ConfidenceExit
from baselines.multi_layer import MultiLayerExit
from skiplab.engine.batch import Batch
from skiplab.methods.base import ExitModule, Optimization, Setup
from skiplab.methods.full import Full
from skiplab.methods.once_for_all import OnceForAll
from skiplab.methods.scheduled import PlanTrainedModule, ScheduleTrainedModule
from skiplab.methods.skipdecode import SkipDecode
from skiplab.methods.spec import MethodSpec
from skiplab.utils.own_code import own_code
from tests.tiny import tiny_backbone


def setup() -> Setup:
    return Setup(tiny_backbone(), [6, 9, 12], Optimization(learning_rate=1e-3))


def spec(method: type[ExitModule], **params: Any) -> MethodSpec:
    return MethodSpec.of(method, params, setup())


class OtherLoss(ScheduleTrainedModule):
    """A method as a user would write it: a subclass with its own loss that does not define `shared_recipe`."""

    def __init__(self, setup: Setup, **options: Any) -> None:
        super().__init__(setup, "skip", **options)

    def loss(self, batch: Batch) -> Tensor:
        return 2 * super().loss(batch)


class OtherOptimizer(ScheduleTrainedModule):
    def __init__(self, setup: Setup, **options: Any) -> None:
        super().__init__(setup, "skip", **options)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class SharesWithOtherLoss(OtherLoss):
    def shared_recipe(self) -> Mapping[str, Any]:
        return {"loss": "doubled", **self.plans}


OF_ONES_OWN = """
from skiplab.methods.scheduled import ScheduleTrainedModule

class Mine(ScheduleTrainedModule):
    def __init__(self, setup, **options):
        super().__init__(setup, "skip", **options)

    def loss(self, batch):
        return FACTOR * super().loss(batch)
"""


def test_a_change_in_the_users_code_gives_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def training(factor: int) -> str | None:
        (tmp_path / "my_method.py").write_text(OF_ONES_OWN.replace("FACTOR", str(factor)))
        own_code.cache_clear()
        return spec(import_module("my_method").Mine, speedup=2.0).training

    first = training(2)
    assert first is not None
    assert training(3) != first == training(2)


@pytest.mark.parametrize("method", [OtherLoss, OtherOptimizer])
def test_a_class_that_trains_differently_shares_no_training_by_default(method: type[PlanTrainedModule]) -> None:
    own, other = spec(method, speedup=2.0), spec(SkipDecode, speedup=2.0)
    assert own.plan == other.plan
    assert own.training not in (None, other.training)
    assert own.training != spec(method, speedup=1.5).training
    assert own.training != spec(method, speedup=2.0, warmup=2).training


def test_trainings_with_the_same_shared_recipe_are_shared() -> None:
    same = [
        spec(SharesWithOtherLoss, speedup=2.0).training,
        spec(SharesWithOtherLoss, speedup=2.0, horizon="median").training,
    ]
    assert same[0] == same[1] != spec(OtherLoss, speedup=2.0).training
    assert spec(MultiLayerExit, speedup=1.5).training == spec(MultiLayerExit, speedup=2.0).training
    assert spec(MultiLayerExit, speedup=1.5).training == spec(CALM, threshold=0.5).training
    assert spec(OnceForAll, speedup=1.5).training == spec(OnceForAll, speedup=2.0, warmup=2).training


def test_a_spec_is_made_without_weights() -> None:
    with torch.device("meta"):
        backbone = tiny_backbone()
    found = MethodSpec.of(SkipDecode, {"speedup": 2.0}, Setup(backbone, [6, 9, 12], Optimization(learning_rate=1e-3)))
    assert found == spec(SkipDecode, speedup=2.0)
    assert hash(found) == hash(spec(SkipDecode, speedup=2.0))
    assert (found.setting, found.target_speedup, found.budget) == ("2x", 2.0, (2.0, None, None))
    assert found.plan is not None
    assert [len(layers) for layers in found.plan] == sorted((len(layers) for layers in found.plan), reverse=True)
    assert len(found.plan) == 12


def test_adaptive_methods_have_no_plan() -> None:
    assert spec(CALM, threshold=0.5).plan is None
    assert spec(CALM, threshold=0.5).target_speedup is None


def test_an_untrained_setting_has_no_training_key() -> None:
    assert spec(Full).training is None
    assert spec(Full, fine_tune=True).training is not None


def test_a_spec_is_resolved_for_given_output_lengths() -> None:
    short = spec(SkipDecode, speedup=2.0)
    longer = short.resolved(replace(setup(), lengths=[20, 30, 40]))
    assert (longer.setting, longer.params) == (short.setting, short.params)
    assert longer.plan != short.plan
    assert longer.training != short.training
    module = longer.build(replace(setup(), lengths=[20, 30, 40]))
    assert tuple(module.exit_policy([]).plan(step) for step in range(40)) == longer.plan


def test_bad_hyperparameters_are_refused() -> None:
    with pytest.raises(ValueError, match="target speedup 40 cannot be reached"):
        spec(SkipDecode, speedup=40.0)
    with pytest.raises(TypeError, match="decai"):
        spec(SkipDecode, speedup=2.0, decai="linear")


@pytest.mark.parametrize("sought", [{"speedup": 2.0}, {"quantile": 0.9}])
def test_a_threshold_takes_the_place_of_what_it_was_found_for(sought: dict[str, float]) -> None:
    found = spec(CALM, confidence="state", **sought)
    settled = found.settled(0.75).resolved(setup())
    assert settled.training == found.training
    policy = settled.build(setup()).exit_policy([])
    assert isinstance(policy, ConfidenceExit)
    assert policy.threshold == 0.75
    assert found.settled(None) is found
