"""Logits of continuations whose contexts differ in length."""

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra eval is not installed")

from skiplab.engine.backbone import Backbone
from skiplab.engine.policy import ExitPolicy, FullDepth, Planned, Scheduled
from skiplab.lm_eval import scoring
from skiplab.lm_eval.scoring import continuation_logits, planned_logits
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import CoordinateExit, prompts

PAIRS = list(zip(prompts(7, seed=1), prompts(7, seed=2), strict=True))
SCHEDULE = ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=5)
POLICIES: dict[str, ExitPolicy] = {
    "full": FullDepth(6),
    "skip": Scheduled(SCHEDULE, "skip"),
    "terminate": Scheduled(SCHEDULE, "terminate"),
    "shallow": Planned([(0, 1, 4, 5), (0, 5)]),
    "adaptive": CoordinateExit(0.2),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_batch_gives_the_logits_of_each_row_step_by_step(backbone: Backbone, name: str) -> None:
    policy = POLICIES[name]
    together = continuation_logits(backbone, policy, PAIRS)
    for found, pair in zip(together, PAIRS, strict=True):
        (expected,) = scoring._stepwise(backbone, policy, [pair])
        assert found.shape == (len(pair[1]), 48)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@torch.inference_mode()
def test_full_depth_gives_the_librarys_logits_to_the_last_bit(backbone: Backbone) -> None:
    ids_BT = torch.randint(3, 48, (3, 11))
    found = planned_logits(backbone, FullDepth(6), ids_BT, [2, 5, 11])
    assert torch.equal(found, backbone.model(ids_BT).logits)
