"""With keep=best a training keeps the weights of the pass with the lowest validation loss, even if interrupted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skiplab.data.module import TextData
from skiplab.engine.batch import Part
from skiplab.methods.base import ExitModule
from skiplab.reporting.curve_logger import Curves, points
from skiplab.reporting.tracker import NoTracker
from skiplab.training.trainer import train
from skiplab.training.training_cost import TrainingCost
from skiplab.training.upkeep import Upkeep
from tests.training.test_trainer import SPEC, new_data, new_module

BEST = replace(SPEC, max_epochs=6, keep="best")


def worsening(data: TextData) -> ExitModule:
    """A module that learns for four passes, then unlearns."""
    module = new_module(data)
    step = module.training_step

    def either_way(part: Part, batch_idx: int) -> Tensor:
        loss = step(part, batch_idx)
        return loss if module.current_epoch < 4 else -loss

    module.training_step = either_way
    return module


def trained(folder: Path, module: ExitModule, data: TextData) -> TrainingCost:
    train(
        module,
        data,
        BEST,
        seed=0,
        folder=folder,
        logger=Curves(folder, NoTracker(), None),
        upkeep=Upkeep(checkpoint_every=0),
    )
    cost = TrainingCost.stored(folder)
    assert cost is not None
    return cost


def losses(folder: Path) -> list[float]:
    return [value for name, value, _, _ in points(folder) if name == "valid_loss"]


def test_the_best_pass_is_kept(tmp_path: Path) -> None:
    data = new_data()
    module = worsening(data)
    cost = trained(tmp_path, module, data)
    by_pass = losses(tmp_path)
    assert len(by_pass) == 6
    assert cost.valid_loss == min(by_pass)
    assert cost.kept_pass == 1 + by_pass.index(min(by_pass)) == 4
    summed, rows = 0.0, 0
    with torch.inference_mode():
        for batch in data.batches("selection"):
            summed += float(module.loss(batch)) * len(batch.input_BT)
            rows += len(batch.input_BT)
    assert summed / rows == pytest.approx(cost.valid_loss, rel=1e-5)
    assert not list(tmp_path.glob("*best*"))


def test_an_interrupted_training_keeps_the_same_pass(tmp_path: Path) -> None:
    data = new_data()
    whole = worsening(data)
    expected = trained(tmp_path / "whole", whole, data)
    module = worsening(data)
    step = module.training_step

    def failing(part, batch_idx):
        if module.trainer.current_epoch == 5:
            raise RuntimeError("cut off")
        return step(part, batch_idx)

    module.training_step = failing
    with pytest.raises(RuntimeError, match="cut off"):
        trained(tmp_path / "cut", module, data)
    again = worsening(data)
    cost = trained(tmp_path / "cut", again, data)
    assert (cost.kept_pass, cost.valid_loss) == (expected.kept_pass, expected.valid_loss)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_keep_best_with_sharded_weights_and_unknown_values_are_refused() -> None:
    with pytest.raises(ValueError, match="take ddp"):
        replace(SPEC, keep="best", strategy="fsdp", devices=2)
    with pytest.raises(ValueError, match="last or best, got 'first'"):
        replace(SPEC, keep="first")


def test_keep_is_part_of_the_recipe_only_if_it_is_best() -> None:
    assert "keep" not in SPEC.recipe
    assert BEST.recipe["keep"] == "best"
