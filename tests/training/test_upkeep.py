"""What is done beside the steps of a training."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from skiplab.methods.full import Full
from skiplab.training.trainer import train
from skiplab.training.upkeep import Upkeep
from tests.training.test_trainer import SPEC, new_data, new_module


class CutOffError(Exception):
    pass


class Shown:
    """A `Progress` that notes the steps that pass, and whether it was closed."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.closed = False

    def __call__(self, work: Iterable[Any]) -> Iterator[Any]:
        try:
            for step in work:
                self.steps.append(step)
                yield step
        finally:
            self.closed = True


def test_every_step_passes_once(tmp_path: Path) -> None:
    shown = Shown()
    train(new_module(new_data()), new_data(), SPEC, seed=0, folder=tmp_path, logger=None, upkeep=Upkeep(progress=shown))
    assert shown.steps == list(range(20))
    assert shown.closed


def test_an_interrupted_training_takes_its_bar_away_and_shows_the_rest_when_it_resumes(tmp_path: Path) -> None:
    data, steps = new_data(), []

    def loss(batch: Any) -> Any:
        if torch.is_grad_enabled():
            steps.append(batch)
        if len(steps) == 14:
            raise CutOffError
        return Full.loss(module, batch)

    module, cut, rest = new_module(data), Shown(), Shown()
    module.loss = loss  # type: ignore[method-assign]
    with pytest.raises(CutOffError):
        train(module, data, SPEC, seed=0, folder=tmp_path, logger=None, upkeep=Upkeep(checkpoint_every=0, progress=cut))
    assert cut.steps == list(range(14))
    assert cut.closed
    train(new_module(data), data, SPEC, seed=0, folder=tmp_path, logger=None, upkeep=Upkeep(progress=rest))
    assert rest.steps == list(range(13, 20))
