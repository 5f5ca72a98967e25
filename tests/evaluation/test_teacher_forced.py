"""Losses from cached prompt states equal those of the complete parallel forward."""

import random

import pytest
import torch

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch, collate
from skiplab.engine.policy import Planned
from skiplab.evaluation.teacher_forced import Continuations
from skiplab.methods.distillation import planned_loss
from skiplab.schedules.nested_plan import NestedPlan, random_plan
from tests.tiny import EOS, PAD, prompts


def batches() -> list[Batch]:
    def batch(seed: int, rows: list[list[int]]) -> Batch:
        targets = [[*target, EOS] for target in prompts(len(rows), seed=seed, longest=11)]
        return collate(rows, targets, PAD)

    # The second batch has no padding in its prompts, the third has one token per output.
    equal = [[5, 6, 7]] * 3
    return [batch(1, prompts(5)), batch(2, equal), collate(prompts(4), [[EOS]] * 4, PAD)]


def plans() -> list[NestedPlan]:
    rng = random.Random(0)
    return [
        NestedPlan((2, 2, 2, 2, 2, 2)),
        NestedPlan((9, 1, 1, 1, 1, 3)),
        *(random_plan(rng, 6, 12, 1) for _ in range(8)),
    ]


@torch.inference_mode()
def test_loss_is_that_of_the_parallel_forward(backbone: Backbone) -> None:
    read = Continuations(backbone, batches())
    for plan in plans():
        parts = [planned_loss(backbone, Planned(plan.plans()), batch) for batch in batches()]
        counts = [int((batch.target_BG != IGNORE).sum()) for batch in batches()]
        expected = sum(float(part) * count for part, count in zip(parts, counts, strict=True)) / sum(counts)
        assert read.loss(plan) == pytest.approx(expected, rel=1e-5)


def test_losses_by_step_add_up(backbone: Backbone) -> None:
    read, plan = Continuations(backbone, batches()), plans()[-1]
    losses_G, counts_G = read.loss_by_step(plan)
    assert counts_G.tolist() == [
        sum(int((batch.target_BG[:, step] != IGNORE).sum()) for batch in batches() if batch.target_BG.shape[1] > step)
        for step in range(len(counts_G))
    ]
    assert float(losses_G.sum() / counts_G.sum()) == read.loss(plan)
    # The plan of a step does not affect earlier steps.
    later = NestedPlan((12, 12, 5, 12, 12, 12))
    before, _ = read.loss_by_step(NestedPlan((12,) * 6))
    after, _ = read.loss_by_step(later)
    torch.testing.assert_close(before[:5], after[:5], atol=1e-4, rtol=1e-5)
    assert not torch.allclose(before[5:], after[5:])
