"""CALM's exits and oracles, against values computed by hand."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from baselines.calm_policy import ConfidenceExit, ExactExit, Exits, IdealExit
from baselines.calm_threshold import Decay, Threshold
from baselines.confidence import Confidence, exit_confidences, softmax_confidence, state_saturation
from skiplab.engine.backbone import Backbone
from skiplab.engine.decode import DecodeResult, decode
from skiplab.engine.parallel_forward import layer_states, start
from skiplab.engine.policy import FullDepth, Head
from tests.test_conformance import (
    check_leaving_rows,
    check_parallel_forward,
    check_rows_alone,
    decode_with_logits,
    some_batch,
)
from tests.tiny import PAD, prompts


def first_coordinate(h_BD: Tensor, below_BD: Tensor, head: Head) -> Tensor:
    return h_BD[:, 0]


def rarely_exceeded(backbone: Backbone, confidence: Confidence) -> Threshold:
    """A threshold that about a tenth of all confidences exceed."""
    return Threshold(value=float(exit_confidences(backbone, some_batch(), confidence, range(1, 5))[0].quantile(0.9)))


def full_pass(backbone: Backbone, prompt: list[int], tokens: list[int]) -> list[Tensor]:
    """States (G, D) that full depth gives the generated tokens: below the first layer, then after each."""
    ids, mask = torch.tensor([[*prompt, *tokens[:-1]]]), torch.ones(1, len(prompt), dtype=torch.bool)
    embedded, _ = start(backbone, ids, mask)
    return [h[0, len(prompt) - 1 :] for h in (embedded, *layer_states(backbone, ids, mask))]


def test_exits_start_at_the_first_and_keep_their_interval() -> None:
    assert list(Exits().layers(12)) == list(range(11))
    assert list(Exits(first=3, interval=4).layers(12)) == [2, 6, 10]
    assert list(Exits(first=11, interval=5).layers(12)) == [10]
    assert list(Exits().layers(2)) == [0]


@pytest.mark.parametrize(("first", "interval"), [(0, 1), (6, 1), (7, 1), (1, 0)])
def test_impossible_exits_are_refused(first: int, interval: int) -> None:
    message = (
        rf"first must lie between 1 and 5 of the 6 layers and exits.interval be at least 1, got {first} and {interval}"
    )
    with pytest.raises(ValueError, match=message):
        Exits(first=first, interval=interval).layers(6)


def at(step: int, rows: int = 4) -> Tensor:
    """Rows at one generation step."""
    return torch.full((rows,), step)


def test_each_row_has_the_threshold_of_its_own_step() -> None:
    policy = ConfidenceExit(6, Threshold(value=0.5, decay=Decay(temperature=0.7, formula="code")), first_coordinate)
    h_BD = torch.tensor([[0.46], [0.46], [0.44], [0.51]])
    step_B = torch.tensor([0, 9, 9, 0])
    assert policy.exits(h_BD, h_BD, layer=0, step_B=step_B, head=lambda h: h).tolist() == [False, True, False, True]


def test_a_row_exits_when_its_confidence_exceeds_the_steps_threshold() -> None:
    policy = ConfidenceExit(6, Threshold(value=0.5, decay=Decay(temperature=0.7, formula="code")), first_coordinate)
    h_BD = torch.tensor([[0.44], [0.46], [0.51], [-3.0]])
    # 0.45 + 0.05 exp(-0.7 step): 0.5 at step 0, then 0.4748 and toward 0.45.
    assert policy.exits(h_BD, h_BD, layer=0, step_B=at(0), head=lambda h: h).tolist() == [False, False, True, False]
    assert policy.exits(h_BD, h_BD, layer=0, step_B=at(9), head=lambda h: h).tolist() == [False, True, True, False]
    edge = ConfidenceExit(6, Threshold(value=0.5), first_coordinate)
    assert not edge.exits(torch.tensor([[0.5]]), torch.zeros(1, 1), layer=0, step_B=at(3, 1), head=lambda h: h).any()
    everyone = ConfidenceExit(6, Threshold(value=0.0), first_coordinate)
    assert everyone.exits(h_BD, h_BD, layer=0, step_B=at(3), head=lambda h: h).all()


def test_rows_exit_only_at_exit_layers(backbone: Backbone) -> None:
    for exit_layers, depth in ((Exits(first=2, interval=2).layers(6), 2), (Exits(first=5).layers(6), 5), (None, 1)):
        policy = ConfidenceExit(6, Threshold(value=0.0), softmax_confidence, exit_layers=exit_layers)
        depths = decode(backbone, policy, prompts(3), max_new_tokens=5, eos_id=None, pad_id=PAD).depth_BT
        assert (depths[:, 1:] == depth).all()


def test_hindsight_takes_the_first_exit_by_hand() -> None:
    # Three exits of four layers; the rows exceed 0.5 at layers 1 and 3, at 2, at none, and at the top only.
    above = [[0.9, 0.1, 0.2, 0.5], [0.1, 0.8, 0.3, 0.5], [0.6, 0.1, 0.5, 0.1], [0.9, 0.9, 0.9, 0.9]]
    states = [torch.zeros(4, 1), *(torch.tensor(h)[:, None] for h in above)]
    exact = ExactExit(4, Threshold(value=0.5), first_coordinate, range(3))
    assert exact.exit_depths(states, step_B=at(2), head=lambda h: h).tolist() == [1, 2, 4, 4]
    assert ExactExit(4, Threshold(value=0.0), first_coordinate, range(1, 3)).exit_depths(
        states, step_B=at(2), head=lambda h: h
    ).tolist() == [2, 2, 2, 2]


def test_the_ideal_exit_is_the_first_agreement_by_hand() -> None:
    # Predictions of four rows below the first layer and after each of four; the top's are 2, 0, 1, 2.
    predictions = [[2, 0, 1, 2], [1, 0, 0, 2], [2, 1, 0, 0], [2, 0, 0, 2], [2, 0, 1, 2]]
    states = [torch.nn.functional.one_hot(torch.tensor(row), 3).float() for row in predictions]
    every = IdealExit(4, range(3), exact_kv=False)
    assert every.exit_depths(states, step_B=at(1), head=lambda h: h).tolist() == [2, 1, 4, 1]
    later = IdealExit(4, range(1, 3), exact_kv=False)
    assert later.exit_depths(states, step_B=at(1), head=lambda h: h).tolist() == [2, 3, 4, 3]


def check_full_pass_exits(backbone: Backbone, policy: ExactExit | IdealExit) -> DecodeResult:
    """Every token comes from the state that a parallel pass at full depth has after its exit."""
    result, seen = decode_with_logits(backbone, policy, prompts(4))
    for row, (prompt, tokens) in enumerate(zip(prompts(4), result.sequences(), strict=True)):
        states = full_pass(backbone, prompt, tokens)
        for step, depth in enumerate(result.depth_BT[row].tolist()):
            expected_V = backbone.head(states[depth][step])
            torch.testing.assert_close(seen[row, step], expected_V, atol=1e-4, rtol=1e-4)
    return result


@torch.inference_mode()
@pytest.mark.parametrize("confidence", [softmax_confidence, state_saturation])
def test_exact_exits_use_the_states_of_a_full_pass(backbone: Backbone, confidence: Confidence) -> None:
    threshold = rarely_exceeded(backbone, confidence)
    policy = ExactExit(6, threshold, confidence, range(1, 5))
    result = check_full_pass_exits(backbone, policy)
    assert len(result.depth_BT[:, 1:].unique()) > 2
    for row, (prompt, tokens) in enumerate(zip(prompts(4), result.sequences(), strict=True)):
        states = full_pass(backbone, prompt, tokens)
        confident = [
            (confidence(above, below, backbone.head) > threshold.value).tolist()
            for below, above in pairwise(states)
        ]  # fmt: skip
        for step, depth in enumerate(result.depth_BT[row].tolist()[1:], start=1):
            assert depth == next((layer + 1 for layer in range(1, 5) if confident[layer][step]), 6)


@torch.inference_mode()
def test_the_ideal_exit_with_exact_keys_changes_no_token(backbone: Backbone) -> None:
    full = decode(backbone, FullDepth(6), prompts(4), max_new_tokens=14, eos_id=None, pad_id=PAD)
    result = check_full_pass_exits(backbone, IdealExit(6, range(5), exact_kv=True))
    assert torch.equal(result.tokens_BT, full.tokens_BT)
    assert (result.depth_BT <= 6).all()
    assert (result.depth_BT[:, 1:] < 6).any()
    for row, (prompt, tokens) in enumerate(zip(prompts(4), result.sequences(), strict=True)):
        predicted = [backbone.head(h).argmax(-1).tolist() for h in full_pass(backbone, prompt, tokens)]
        for step, depth in enumerate(result.depth_BT[row].tolist()[1:], start=1):
            assert depth == next(depth for depth in range(1, 7) if predicted[depth][step] == tokens[step])


def test_the_ideal_exit_with_exit_keys_has_the_logits_of_the_layers_that_ran(backbone: Backbone) -> None:
    depth_BT = check_parallel_forward(backbone, IdealExit(6, range(5), exact_kv=False), prompts(4)).depth_BT
    assert len(depth_BT[:, 1:].unique()) > 2


@pytest.mark.parametrize("exact_kv", [False, True])
def test_rows_of_an_ideal_batch_are_independent(backbone: Backbone, exact_kv: bool) -> None:
    policy = IdealExit(6, range(5), exact_kv=exact_kv)
    check_rows_alone(backbone, policy, prompts(4, seed=3))
    check_leaving_rows(backbone, policy, prompts(4, seed=4), [3, 14, 1, 6])
