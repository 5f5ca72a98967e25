"""Steps that run every layer and choose the exits afterwards."""

from collections.abc import Sequence
from typing import final

import pytest
import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.parallel_forward import layer_states
from skiplab.engine.policy import Head, HindsightPolicy
from skiplab.schedules.exit_schedule import LayerPlan
from tests.engine.test_step_runners import BOUNDS
from tests.test_conformance import check_leaving_rows, check_rows_alone, decode_with_logits
from tests.tiny import CoordinateExit, prompts


@final
class CoordinateHindsight(HindsightPolicy):
    """The exits of `CoordinateExit`, chosen after all layers have run."""

    def __init__(self, bound: float, *, exact_kv: bool) -> None:
        self._bound = bound
        self._exact_kv = exact_kv

    @property
    def exact_kv(self) -> bool:
        return self._exact_kv

    def plan(self, step: int) -> LayerPlan:
        return tuple(range(6))

    def exit_depths(self, states: Sequence[Tensor], *, step_B: Tensor, head: Head) -> Tensor:
        exits_LB = torch.stack([h[:, 0] > self._bound for h in states[1:6]])
        return torch.where(exits_LB.any(0), exits_LB.int().argmax(0) + 1, 6)


def test_hindsight_without_exact_keys_equals_freeze(backbone: Backbone) -> None:
    for bound in BOUNDS:
        found, seen = [], []
        for policy in (CoordinateExit(bound), CoordinateHindsight(bound, exact_kv=False)):
            result, logits = decode_with_logits(backbone, policy, prompts(4))
            found.append(result)
            seen.append(torch.stack([logits[key] for key in sorted(logits)]))
        assert torch.equal(found[0].tokens_BT, found[1].tokens_BT)
        assert torch.equal(found[0].depth_BT, found[1].depth_BT)
        torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("exact_kv", [False, True])
def test_rows_of_a_hindsight_batch_are_independent(backbone: Backbone, exact_kv: bool) -> None:
    policy = CoordinateHindsight(1.0, exact_kv=exact_kv)
    check_rows_alone(backbone, policy, prompts(5, seed=3))
    check_leaving_rows(backbone, policy, prompts(5, seed=4), [3, 14, 1, 6, 2])


@torch.inference_mode()
def test_with_exact_keys_exits_use_the_states_of_a_full_pass(backbone: Backbone) -> None:
    depths = set()
    for bound in BOUNDS:
        policy = CoordinateHindsight(bound, exact_kv=True)
        result, seen = decode_with_logits(backbone, policy, prompts(4))
        for row, (prompt, tokens) in enumerate(zip(prompts(4), result.sequences(), strict=True)):
            ids = torch.tensor([[*prompt, *tokens[:-1]]])
            states = list(layer_states(backbone, ids, torch.ones(1, len(prompt), dtype=torch.bool)))
            for step, depth in enumerate(result.depth_BT[row].tolist()):
                expected_V = backbone.head(states[depth - 1][0, len(prompt) - 1 + step])
                torch.testing.assert_close(seen[row, step], expected_V, atol=1e-4, rtol=1e-4)
                depths.add(depth)
    assert len(depths) > 2
