"""CALM's parts by hand; what holds for every method is in the conformance tests."""

import math

import pytest
import torch

from baselines.calm import (
    CALM,
    ConfidenceExit,
    Measure,
    decayed_threshold,
    decoded_depth,
    exit_confidences,
    exits_after,
    mean_first_exit,
    softmax_response,
    state_saturation,
)
from skiplab.decode import decode
from skiplab.module import Optimization, Setup
from skiplab.policy import AdaptivePolicy, BatchPolicy, FullDepth, Head, Scheduled
from skiplab.schedule import ExitSchedule, LayerPlan
from tests.test_conformance import decode_with_logits, reference_logits, some_batch
from tests.tiny import PAD, prompts, tiny_backbone


def calm_policy(threshold: float, temperature: float | None = None) -> ConfidenceExit:
    return ConfidenceExit(6, threshold, temperature=temperature, longest=20)


def test_softmax_response_is_top_1_minus_top_2() -> None:
    logits = torch.tensor([[math.log(5), math.log(3), math.log(2)], [0.0, 0.0, -9e9]])
    torch.testing.assert_close(softmax_response(logits), torch.tensor([0.2, 0.0]))


def test_state_saturation_is_the_cosine_of_a_layers_states() -> None:
    above, below = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    torch.testing.assert_close(state_saturation(above, below), torch.tensor([24 / 25, 0.0]))


def test_exits_start_at_the_first_and_keep_their_interval() -> None:
    assert list(exits_after(12, 1, 1)) == list(range(11))
    assert list(exits_after(12, 3, 4)) == [2, 6, 10]
    assert list(exits_after(12, 11, 5)) == [10]


@pytest.mark.parametrize("measure", ["softmax", "state"])
@pytest.mark.parametrize("batch_policy", ["freeze", "min"])
def test_decoded_logits_are_those_of_the_layers_that_ran(measure: Measure, batch_policy: BatchPolicy) -> None:
    backbone, rows = tiny_backbone(), prompts(4)
    confidences, _ = exit_confidences(backbone, some_batch(), measure, range(5))
    threshold = float(confidences.median())
    policy = ConfidenceExit(6, threshold, measure=measure, batch_policy=batch_policy)
    result, seen = decode_with_logits(backbone, policy, rows)
    assert len(result.depth_BT[:, 1:].unique()) > 1
    for row, tokens in enumerate(result.sequences()):
        expected_TV = reference_logits(backbone, policy, rows[row], tokens, result.depth_BT[row].tolist())
        actual_TV = torch.stack([seen[row, step] for step in range(len(tokens))])
        torch.testing.assert_close(actual_TV, expected_TV, atol=1e-4, rtol=1e-4)
    if batch_policy == "min":
        assert (result.depth_BT == result.depth_BT[:1]).all()


def test_the_batch_waits_for_its_least_confident_row() -> None:
    backbone, rows = tiny_backbone(), prompts(3)
    threshold = float(exit_confidences(backbone, some_batch(), "softmax", range(5))[0].median())
    alone = [
        int(decode(backbone, calm_policy(threshold), [row], max_new_tokens=2, eos_id=None, pad_id=PAD).depth_BT[0, 1])
        for row in rows
    ]
    together = decode(
        backbone, ConfidenceExit(6, threshold, batch_policy="min"), rows, max_new_tokens=2, eos_id=None, pad_id=PAD
    )
    assert len(set(alone)) > 1
    assert (together.depth_BT[:, 1] >= max(alone)).all()


def test_layers_project_what_they_missed_when_a_step_reaches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, projected = tiny_backbone(), []
    project = backbone.project_kv

    def counted(index: int, h_BTD: torch.Tensor):
        projected.append((index, h_BTD.shape[1]))
        return project(index, h_BTD)

    class EveryFourthStepDeep(AdaptivePolicy):
        @property
        def exit_layers(self) -> range:
            return range(5)

        @property
        def batch_policy(self) -> BatchPolicy:
            return "freeze"

        def plan(self, step: int) -> LayerPlan:
            return tuple(range(6))

        def exits(self, h_BD: torch.Tensor, below_BD: torch.Tensor, *, step: int, head: Head) -> torch.Tensor:
            return torch.full((len(h_BD),), step % 4 != 0)

    monkeypatch.setattr(backbone, "project_kv", counted)
    decode(backbone, EveryFourthStepDeep(), prompts(3), max_new_tokens=10, eos_id=None, pad_id=PAD)
    # Steps 4 and 8 of 1 to 9 reach the upper five layers; each makes up for three steps at once.
    assert projected == [(layer, 3) for _ in range(2) for layer in range(1, 6)]


def test_rows_exit_at_exit_layers_only() -> None:
    policy = ConfidenceExit(6, 0.0, exit_layers=exits_after(6, 2, 2))
    depths = decode(tiny_backbone(), policy, prompts(3), max_new_tokens=5, eos_id=None, pad_id=PAD).depth_BT
    assert (depths[:, 1:] == 2).all()


def test_decayed_threshold_is_equation_5() -> None:
    assert decayed_threshold(0.8, 0, temperature=4, longest=20) == pytest.approx(0.9 * 0.8 + 0.1)
    assert decayed_threshold(0.8, 10, temperature=4, longest=20) == pytest.approx(0.72 + 0.1 * math.exp(-2))
    assert decayed_threshold(1.0, 0, temperature=4, longest=20) == 1.0
    assert calm_policy(0.5).step_threshold(7) == 0.5
    assert calm_policy(0.5, 0.0).step_threshold(7) == pytest.approx(0.55)


def test_mean_first_exit_by_hand() -> None:
    # Tokens exit after layers 1, 3 and none of four.
    confidence_LN = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.1], [0.9, 0.8, 0.4]])
    half = torch.full((3,), 0.5)
    assert mean_first_exit(confidence_LN, half, range(3), 4) == pytest.approx((1 + 3 + 4) / 3)
    falling = torch.tensor([0.95, 0.15, 0.5])
    assert mean_first_exit(confidence_LN, falling, range(3), 4) == pytest.approx((4 + 2 + 4) / 3)
    assert mean_first_exit(confidence_LN, half, range(1, 6, 2), 7) == pytest.approx((2 + 6 + 7) / 3)


def test_threshold_one_is_full_depth_and_zero_the_first_exit() -> None:
    backbone, rows = tiny_backbone(), prompts(5)
    schedule = ExitSchedule(num_layers=6, max_exit=1, min_exit=1, horizon=2)
    for threshold, same in ((1.0, FullDepth(6)), (0.0, Scheduled(schedule, "terminate"))):
        options = {"max_new_tokens": 12, "eos_id": None, "pad_id": PAD}
        adaptive = decode(backbone, calm_policy(threshold), rows, **options)
        fixed = decode(backbone, same, rows, **options)
        assert torch.equal(adaptive.tokens_BT, fixed.tokens_BT)
        assert torch.equal(adaptive.depth_BT, fixed.depth_BT)


def test_confidences_are_of_the_tokens_after_the_first() -> None:
    backbone, batch = tiny_backbone(), some_batch()
    confidence_LN, step_N = exit_confidences(backbone, batch, "softmax", range(5))
    tokens = int((batch.target_BG[:, 1:] >= 0).sum())
    assert confidence_LN.shape == (5, tokens)
    assert step_N.min() == 1
    assert step_N.max() == batch.decode_steps


def test_a_threshold_is_matched_to_a_speedup() -> None:
    backbone, batches = tiny_backbone(), [some_batch(1), some_batch(2)]
    setup = Setup(backbone, [12, 14], Optimization(learning_rate=1e-3))
    depths = []
    for speedup in (1.2, 2, 4):
        policy = CALM(setup, speedup=speedup).exit_policy(batches)
        depths.append(decoded_depth(backbone, policy, batches))
        assert depths[-1] == pytest.approx(6 / speedup, rel=0.15)
    assert depths == sorted(depths, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a threshold or a speedup"),
        ({"threshold": 0.5, "speedup": 2}, "either a threshold or a speedup"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"speedup": 7}, "speedup must lie between 1 and the 6 layers, got 7"),
        ({"threshold": 0.5, "temperature": -1}, "temperature must be at least 0"),
        ({"threshold": 0.5, "measure": "entropy"}, "unknown calm measure 'entropy'; choose one of softmax, state"),
        ({"threshold": 0.5, "batch_policy": "max"}, "unknown calm batch_policy 'max'; choose one of freeze, min"),
        ({"threshold": 0.5, "first_exit": 6}, "leave no exit: first_exit must lie between 1 and 5 of the 6 layers"),
        ({"threshold": 0.5, "exit_interval": 0}, "exit_interval be at least 1, got 1 and 0"),
    ],
)
def test_bad_hyperparameters_say_what_is_wrong(options: dict, message: str) -> None:
    setup = Setup(tiny_backbone(), [12], Optimization(learning_rate=1e-3))
    with pytest.raises(ValueError, match=message):
        CALM(setup, **options)
