"""Losses from cached prompt states equal those of the complete parallel forward."""

import random

import pytest
import torch

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch, PromptGroup, group_by_prompt
from skiplab.engine.policy import ExitPolicy, Planned, PromptPlanned
from skiplab.evaluation.teacher_forced import Continuations, policy_losses
from skiplab.methods.distillation import planned_loss
from skiplab.schedules.nested_plan import NestedPlan, random_plan
from skiplab.schedules.prompt_spec import PromptSpec
from tests.tiny import EOS, PAD, prompts


def groups() -> list[PromptGroup]:
    """Prompts of several references, of one, and of one length, and references of one token."""

    def targets(count: int, seed: int) -> list[list[int]]:
        return [[*target, EOS] for target in prompts(count, seed=seed, longest=11)]

    several = [(prompt, target) for prompt in prompts(3) for target in targets(4, len(prompt))]
    several += zip(prompts(3, seed=5), targets(3, seed=6), strict=True)
    equal = zip([[5, 6, 7], [5, 6, 8]], targets(2, seed=2), strict=True)
    return [
        group
        for pairs in (several, equal, [(prompt, [EOS]) for prompt in prompts(4)])
        for group in group_by_prompt(pairs, PAD, size=4)
    ]


def batches() -> list[Batch]:
    return [batch for group in groups() for batch in group.batches]


def plans() -> list[NestedPlan]:
    rng = random.Random(0)
    return [
        NestedPlan((2, 2, 2, 2, 2, 2)),
        NestedPlan((9, 1, 1, 1, 1, 3)),
        *(random_plan(rng, 6, 12, 1) for _ in range(8)),
    ]


@torch.inference_mode()
def test_loss_is_that_of_the_parallel_forward(backbone: Backbone) -> None:
    read = Continuations(backbone, groups())
    for plan in plans():
        parts = [planned_loss(backbone, Planned(plan.plans()), batch) for batch in batches()]
        counts = [int((batch.target_BG != IGNORE).sum()) for batch in batches()]
        expected = sum(float(part) * count for part, count in zip(parts, counts, strict=True)) / sum(counts)
        assert read.loss(plan) == pytest.approx(expected, rel=1e-5)


ENDS = PromptSpec(form="ends", from_layer=4, last=2).plan(6, (0, 5))


@torch.inference_mode()
@pytest.mark.parametrize(
    "policy",
    [Planned([(0, 2, 5), (0, 5), (5,)]), PromptPlanned(Planned([tuple(range(6)), (0, 5)]), ENDS)],
    ids=["layers of the prompt", "part of the prompt"],
)
def test_loss_of_a_policy_is_that_of_the_parallel_forward(backbone: Backbone, policy: ExitPolicy) -> None:
    for group in groups():
        losses_G, counts_G = policy_losses(backbone, policy, group)
        parts = [
            float(planned_loss(backbone, policy, batch)) * int((batch.target_BG != IGNORE).sum())
            for batch in group.batches
        ]
        assert float(losses_G.sum()) == pytest.approx(sum(parts), rel=1e-5)
        assert int(counts_G.sum()) == sum(int((batch.target_BG != IGNORE).sum()) for batch in group.batches)


def test_losses_by_step_add_up(backbone: Backbone) -> None:
    read, plan = Continuations(backbone, groups()), plans()[-1]
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
