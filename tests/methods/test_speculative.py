"""Self-speculative decoding as a method: what drafts, what is trained, what is shared."""

from typing import Any

import pytest
import torch
from torch import nn

from skiplab.engine.batch import collate
from skiplab.engine.draft_forward import drafted_states, full_pass
from skiplab.engine.parallel_forward import planned_logits
from skiplab.engine.policy import FullDepth
from skiplab.engine.speculative import Speculative
from skiplab.methods.base import Optimization, Setup
from skiplab.methods.losses import divergence, token_loss
from skiplab.methods.speculative import SelfSpeculative
from tests.evaluation.test_teacher_forced import batches
from tests.tiny import tiny_backbone

BASE = tiny_backbone()


def module(seed: int = 0, /, **options: Any) -> SelfSpeculative:
    setup = Setup(tiny_backbone(seed=seed), [6, 9, 12], Optimization(learning_rate=1e-3), teacher=BASE)
    return SelfSpeculative(setup, **options)


SCHEDULE = {"name": "found", "num_layers": 6, "plans": [{"from_step": 1, "layers": [0, 5]}]}


@pytest.mark.parametrize(
    ("options", "drafts", "setting"),
    [
        ({"speedup": 2, "decay": "constant"}, (0, 4, 5), "2x constant drafts 4"),
        ({"speedup": 2, "decay": "constant", "kind": "terminate"}, (0, 1, 2), "2x constant terminate drafts 4"),
        ({"speedup": 2, "draft": {"length": 3, "adaptive": True}}, (0, 3, 4, 5), "2x drafts up to 3"),
        ({"layers": [0, 1, 3]}, (0, 1, 3), "layers 0-1,3 drafts 4"),
        ({"schedule": SCHEDULE, "draft": {"threshold": 0.5}}, (0, 5), "found drafts 4 above 0.5"),
        ({"layers": [0, 5], "training": "any_plan"}, (0, 5), "layers 0,5 drafts 4 trained for any plan"),
    ],
)
def test_what_drafts(options: dict[str, Any], drafts: tuple[int, ...], setting: str) -> None:
    made = module(**options)
    assert isinstance(made.policy, Speculative)
    assert made.policy.plan(1) == (0, 1, 2, 3, 4, 5)
    assert made.policy.drafter.plan(1) == drafts
    assert made.setting == setting


def test_the_base_is_taken_as_it_is_or_a_training_is_shared() -> None:
    assert module(speedup=2).recipe is None
    drafter = {"speedup": 2, "training": "drafter"}
    assert module(**drafter).recipe == module(**drafter, draft={"length": 7}).recipe
    assert module(**drafter).recipe != module(**drafter, kind="terminate").recipe
    any_plan = {"training": "any_plan"}
    assert module(**any_plan, speedup=2).recipe == module(**any_plan, layers=[0, 3]).recipe


def test_the_base_teaches_full_depth_and_the_drafter() -> None:
    made, batch = module(1, speedup=2, training="drafter").eval(), batches()[0]
    assert isinstance(made.policy, Speculative)
    full = full_pass(made.backbone, batch)
    drafted_BND = drafted_states(made.backbone, made.policy.drafter, full, length=4)
    full_BGV, drafted_BNV = made.backbone.head(full.states_BGD), made.backbone.head(drafted_BND)
    base_BGV, target_BG = planned_logits(BASE, FullDepth(6), batch), batch.target_BG
    of_full = divergence(full_BGV, base_BGV, target_BG)
    target_BN = target_BG[:, 1:]
    of_drafts = token_loss(drafted_BNV, target_BN) + divergence(drafted_BNV, base_BGV[:, 1:], target_BN)
    torch.testing.assert_close(made.loss(batch), of_full + of_drafts)


def test_only_the_layers_of_a_drafter_are_trained() -> None:
    made = module(speedup=2, decay="constant", training="drafter")
    made.setup("fit")
    made.loss(batches()[0]).backward()
    trained = [index for index, layer in enumerate(made.backbone.layers) if all(_gradients(layer))]
    assert trained == [0, 4, 5]
    assert sum(_gradients(made.backbone)) == sum(len(_gradients(made.backbone.layers[index])) for index in trained)
    any_plan = module(speedup=2, training="any_plan")
    any_plan.setup("fit")
    assert all(weight.requires_grad for weight in any_plan.parameters())


def _gradients(part: nn.Module) -> list[bool]:
    return [weight.grad is not None for weight in part.parameters()]


def test_full_depth_that_is_the_bases_has_no_loss_alone() -> None:
    """Outputs of one token leave nothing to draft."""
    made, batch = module(speedup=2, training="drafter"), collate([[5, 6]], [[3]], 0)
    assert float(made.loss(batch).detach()) == pytest.approx(0, abs=1e-6)


def test_training_without_the_base_is_refused() -> None:
    made = SelfSpeculative(Setup(BASE, [6, 9, 12], Optimization(learning_rate=1e-3)), speedup=2, training="drafter")
    with pytest.raises(ValueError, match="needs the base, whose output is to be kept: give Setup a teacher"):
        made.loss(batches()[0])


def test_each_batch_has_a_plan_of_its_own() -> None:
    made, batch = module(speedup=2, training="any_plan").eval(), batches()[0]
    with torch.inference_mode():
        assert len({float(made.loss(batch)) for _ in range(6)}) > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3, 1]}, "layers must be ascending layers of 0 to 5, got \\[3, 1\\]"),
        ({"layers": []}, "layers must be ascending"),
        ({"layers": [0, 6]}, "layers must be ascending"),
        ({"layers": [0, 1, 2, 3, 4, 5]}, "fewer than the model's 6 layers"),
        ({"speedup": 1}, "fewer than the model's 6 layers"),
        (
            {"schedule": {**SCHEDULE, "prompt": {"form": "decay"}}},
            "schedule 'found' has a prompt plan and cannot draft",
        ),
        ({"layers": [0, 1], "schedule": SCHEDULE}, "layers and schedule both give the plan that drafts"),
        ({"layers": [0, 1], "decay": "cosine"}, "layers fixes the plan of every step; leave decay at the default"),
        ({"schedule": SCHEDULE, "warmup": 2}, "schedule=FILE fixes the plan of every step; leave warmup"),
        ({"speedup": 2, "draft": {"length": 0}}, "draft length must be at least 1"),
        ({"speedup": 2, "draft": {"length": 64}}, "below the model's 64 positions"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**options)
