"""Training under a plan with a teacher at full depth."""

from typing import Any

import pytest
import torch

from baselines.shallow import Shallow
from skiplab.engine.backbone import Backbone
from skiplab.engine.parallel_forward import layer_states, planned_logits
from skiplab.engine.policy import FullDepth, Scheduled
from skiplab.methods.base import Optimization, Setup
from skiplab.methods.distillation import Distillation, planned_loss
from skiplab.methods.losses import divergence, state_distance, token_loss
from skiplab.methods.skipdecode import SkipDecode
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.test_conformance import some_batch
from tests.tiny import tiny_backbone

POLICY = Scheduled(ExitSchedule(num_layers=6, max_exit=4, min_exit=2, horizon=6), "skip")


@pytest.fixture
def teacher() -> Backbone:
    return tiny_backbone(seed=1)


@torch.inference_mode()
def test_the_loss_adds_the_distances_from_the_full_model(teacher: Backbone) -> None:
    backbone, batch = tiny_backbone(), some_batch()
    kept = slice(batch.prompt_columns - 1, None)
    *_, taught_BTD = layer_states(teacher, batch.input_BT, batch.prompt_mask_BP)
    taught_BGV = teacher.model(batch.input_BT, attention_mask=_mask(batch)).logits[:, kept]
    logits_BGV = planned_logits(backbone, POLICY, batch)
    token = token_loss(logits_BGV, batch.target_BG)
    kl = divergence(logits_BGV, taught_BGV, batch.target_BG, temperature=2)
    # The student's states at the same place: the inputs of its head.
    columns_L = [batch.prompt_columns + sum(layer in POLICY.plan(s) for s in range(1, 99)) for layer in range(6)]
    columns_L = [min(columns, batch.input_BT.shape[1]) for columns in columns_L]
    *_, h_BTD = layer_states(backbone, batch.input_BT, batch.prompt_mask_BP, columns_L=columns_L)
    distance = state_distance(h_BTD[:, kept], taught_BTD[:, kept], batch.target_BG)
    assert min(token, kl, distance) > 0.01

    def loss(**weights: float) -> torch.Tensor:
        return planned_loss(backbone, POLICY, batch, teacher=teacher, distillation=Distillation(**weights))

    torch.testing.assert_close(loss(), token)
    torch.testing.assert_close(loss(logits=0.5, temperature=2), token + 0.5 * kl)
    torch.testing.assert_close(loss(states=0.3), token + 0.3 * distance)
    torch.testing.assert_close(loss(logits=0.5, states=0.3, temperature=2), token + 0.5 * kl + 0.3 * distance)


def _mask(batch: Any) -> torch.Tensor:
    generated = torch.ones_like(batch.input_BT[:, batch.prompt_columns :], dtype=torch.bool)
    return torch.cat([batch.prompt_mask_BP, generated], dim=1).long()


@torch.inference_mode()
def test_distilling_the_full_model_into_itself_adds_no_loss(backbone: Backbone) -> None:
    batch = some_batch()
    alone = planned_loss(backbone, FullDepth(6), batch)
    taught = planned_loss(
        backbone, FullDepth(6), batch, teacher=backbone, distillation=Distillation(logits=1, states=1, temperature=2)
    )
    torch.testing.assert_close(taught, alone)


def test_gradients_reach_only_the_student(teacher: Backbone) -> None:
    backbone = tiny_backbone()
    alone = planned_loss(backbone, POLICY, some_batch())
    taught = planned_loss(
        backbone, POLICY, some_batch(), teacher=teacher, distillation=Distillation(logits=1, states=1)
    )  # fmt: skip
    (taught - alone).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 1e-3 for parameter in backbone.parameters())


def test_distillation_without_a_teacher_is_refused() -> None:
    backbone, batch = tiny_backbone(), some_batch()
    for options in ({"logits": 1.0}, {"states": 1.0}):
        with pytest.raises(ValueError, match="distillation needs the full model: give Setup a teacher"):
            planned_loss(backbone, POLICY, batch, distillation=Distillation(**options))
    planned_loss(backbone, POLICY, batch, distillation=Distillation())


@pytest.mark.parametrize(
    "options", [{"logits": -1.0}, {"states": -0.5}, {"logits": 1.0, "temperature": 0.0}, {"temperature": -1.0}]
)
def test_bad_weights_say_what_is_wrong(options: dict[str, float]) -> None:
    values = {"logits": 0.0, "states": 0.0, "temperature": 1.0} | options
    message = "got logits={logits:g}, states={states:g}, temperature={temperature:g}".format(**values)
    with pytest.raises(ValueError, match=message):
        Distillation(**options)


def test_distillation_is_part_of_name_and_recipe() -> None:
    assert Distillation.of(None) == Distillation.of({}) == Distillation()
    none, logits, both = map(Distillation.of, (None, {"logits": 1, "temperature": 2}, {"states": 0.5, "logits": 1}))
    assert [found.parts for found in (none, logits, both)] == [[], ["logits"], ["logits", "states"]]
    assert [found.suffix for found in (none, logits, both)] == [
        "",
        " distilled logits at 2",
        " distilled logits+0.5*states",
    ]
    assert none.recipe == {}
    assert logits.recipe == {"distill": {"logits": 1, "states": 0.0, "temperature": 2}}


def test_the_teacher_is_not_a_submodule(teacher: Backbone) -> None:
    backbone, batch = tiny_backbone(), some_batch()
    setup = Setup(backbone, [12, 14], Optimization(learning_rate=1e-3), teacher=teacher)
    for module in (
        SkipDecode(setup, speedup=2, distill={"logits": 1.0}),
        Shallow(setup, speedup=2, distill={"logits": 1.0}),
    ):
        assert {id(parameter) for parameter in module.parameters()} == {
            id(parameter) for parameter in backbone.parameters()
        }
        assert len(module.state_dict()) == len(backbone.state_dict())
        plain = type(module)(setup, speedup=2)
        assert float(module.loss(batch).detach()) > float(plain.loss(batch).detach()) + 0.01
        assert module.recipe == {**(plain.recipe or {}), "distill": {"logits": 1.0, "states": 0.0, "temperature": 1.0}}
        assert module.setting == f"{plain.setting} distilled logits"
