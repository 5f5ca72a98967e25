"""The once-for-all model: its training draws plans from torch's generator, and all schedules share it."""

import pytest
import torch

from skiplab.methods.base import Optimization, Setup
from skiplab.methods.once_for_all import OnceForAll
from tests.evaluation.test_teacher_forced import batches
from tests.tiny import tiny_backbone


def module(**options: float) -> OnceForAll:
    return OnceForAll(Setup(tiny_backbone(), [6, 9, 12], Optimization(learning_rate=1e-3)), **options)  # type: ignore[arg-type]


def losses(seed: int) -> list[float]:
    own, batch = module(speedup=2), batches()[0]
    torch.manual_seed(seed)
    with torch.inference_mode():
        return [float(own.loss(batch)) for _ in range(6)]


def test_each_batch_draws_a_plan_that_depends_on_the_seed() -> None:
    assert losses(1) == losses(1)
    assert losses(1) != losses(2)
    assert len(set(losses(1))) > 3


def test_one_training_serves_all_schedules() -> None:
    assert module(speedup=2).recipe == module(speedup=3, warmup=1).recipe
    assert module(speedup=2).recipe != module(speedup=2, lowest=3).recipe
    assert module(speedup=2).exit_policy([]).plan(1) == (0, 3, 4, 5)
    with pytest.raises(ValueError, match="lowest must lie between 1 and 6 layers, got 7"):
        module(speedup=2, lowest=7)
