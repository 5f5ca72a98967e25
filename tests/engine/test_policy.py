"""Policies given by a list of plans."""

import pytest
import torch

from skiplab.engine.decode import decode
from skiplab.engine.policy import Planned
from tests.tiny import PAD, prompts, tiny_backbone


def test_the_last_plan_holds_for_all_later_steps() -> None:
    policy = Planned([(0, 1, 2), (0, 2), (2,)])
    assert [policy.plan(step) for step in range(5)] == [(0, 1, 2), (0, 2), (2,), (2,), (2,)]
    assert Planned([(0, 1)]).plan(9) == (0, 1)


def test_a_policy_copies_its_plans() -> None:
    plans = [(0, 1), (1,)]
    policy = Planned(plans)
    plans.append(())
    assert policy.plan(5) == (1,)


def test_decoding_runs_the_plans() -> None:
    policy = Planned([(0, 1, 4, 5), (0, 4, 5), (4, 5)])
    result = decode(tiny_backbone(), policy, prompts(2), max_new_tokens=5, eos_id=None, pad_id=PAD)
    assert torch.equal(result.depth_BT, torch.tensor([[4, 3, 2, 2, 2]] * 2, dtype=torch.int32))


def test_plans_that_do_not_nest_are_refused_at_decoding() -> None:
    with pytest.raises(ValueError, match="plans must be nested: step 1 runs layer 3, which step 0 left out"):
        decode(
            tiny_backbone(), Planned([(0, 1), (0, 3)]), prompts(1), max_new_tokens=3, eos_id=None, pad_id=PAD
        )  # fmt: skip
