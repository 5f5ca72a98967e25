"""Confidences (CALM, section 3.5), against values computed by hand."""

import math
from typing import Any

import pytest
import torch

from baselines.confidence import (
    exit_confidences,
    generated_states,
    mean_first_exit,
    reduced_softmax_confidence,
    softmax_confidence,
    softmax_response,
    state_saturation,
)
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch, collate
from skiplab.engine.parallel_forward import layer_states, start
from tests.test_conformance import some_batch
from tests.tiny import PAD, VOCABULARY, tiny_backbone


def head(*_: Any) -> Any:
    raise AssertionError("the head is not needed")


def test_softmax_response_is_top_1_minus_top_2() -> None:
    logits = torch.tensor([[math.log(5), math.log(3), math.log(2)], [0.0, 0.0, -9e9]])
    torch.testing.assert_close(softmax_response(logits), torch.tensor([0.2, 0.0]))


def test_softmax_confidence_uses_the_state_above_the_layer(backbone: Backbone) -> None:
    h_ND, below_ND = torch.randn(2, 3, 24)
    top_N2 = backbone.head(h_ND).softmax(-1).sort(-1, descending=True).values
    found = softmax_confidence(h_ND, below_ND, backbone.head)
    torch.testing.assert_close(found, top_N2[:, 0] - top_N2[:, 1])


def test_state_saturation_is_the_cosine_of_a_layers_states() -> None:
    above = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]])
    below = torch.tensor([[4.0, 3.0], [0.0, 2.0], [-1.0, 0.0]])
    torch.testing.assert_close(state_saturation(above, below, head), torch.tensor([24 / 25, 0.0, -1.0]))


def test_confidence_never_exceeds_one() -> None:
    states = torch.randn(2000, 24, generator=torch.Generator().manual_seed(0))
    assert (torch.cosine_similarity(states, states, dim=-1) > 1).any()
    found = state_saturation(states, states, head)
    assert not (found > 1).any()
    torch.testing.assert_close(found, torch.ones(2000))


@torch.inference_mode()
def test_generated_states_start_below_the_first_layer(backbone: Backbone) -> None:
    batch = some_batch()
    states = generated_states(backbone, batch)
    embedded, _ = start(backbone, batch.input_BT, batch.prompt_mask_BP)
    expected = [embedded, *layer_states(backbone, batch.input_BT, batch.prompt_mask_BP)]
    assert len(states) == len(expected) == 7
    for found_ND, h_BTD in zip(states, expected, strict=True):
        by_hand = [
            h_BTD[row, batch.prompt_columns - 1 + step]
            for row, target in enumerate(batch.target_BG.tolist())
            for step in range(1, len([token for token in target if token != IGNORE]))
        ]
        assert torch.equal(found_ND, torch.stack(by_hand))


def test_confidences_exclude_the_first_token() -> None:
    backbone, batch = tiny_backbone(), some_batch()
    confidence_EN, step_N = exit_confidences(backbone, batch, softmax_confidence, range(1, 5, 2))
    lengths = (batch.target_BG != IGNORE).sum(1).tolist()
    assert step_N.tolist() == [step for length in lengths for step in range(1, length)]
    states = generated_states(backbone, batch)
    assert confidence_EN.shape == (2, len(step_N))
    for row, layer in enumerate((1, 3)):
        torch.testing.assert_close(confidence_EN[row], softmax_response(backbone.head(states[layer + 1])))
    saturation_EN, _ = exit_confidences(backbone, batch, state_saturation, range(1, 5, 2))
    torch.testing.assert_close(saturation_EN[1], torch.cosine_similarity(states[4], states[3], dim=-1))


def test_mean_first_exit_by_hand() -> None:
    # Tokens exit after layers 1, 3 and none of four.
    confidence_EN = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.1], [0.9, 0.8, 0.4]])
    half = torch.full((3,), 0.5)
    assert mean_first_exit(confidence_EN, half, range(3), 4) == pytest.approx((1 + 3 + 4) / 3)
    falling = torch.tensor([0.95, 0.15, 0.5])
    assert mean_first_exit(confidence_EN, falling, range(3), 4) == pytest.approx((4 + 2 + 4) / 3)
    assert mean_first_exit(confidence_EN, half, range(1, 6, 2), 7) == pytest.approx((2 + 6 + 7) / 3)


def counted_batches() -> list[Batch]:
    """Token 7 four times, 40 three times, 3 twice, 9 once."""
    return [collate([[5], [6]], [[7, 40, 7], [3]], PAD), collate([[5]], [[40, 7, 3, 9, 7, 40]], PAD)]


@torch.inference_mode()
def test_the_reduced_response_uses_only_the_most_frequent_tokens(backbone: Backbone) -> None:
    h_ND = torch.randn(6, 24)
    logits_NV = backbone.head(h_ND)
    for count, ids in ((2, [7, 40]), (3, [7, 40, 3]), (4, [7, 40, 3, 9])):
        confidence = reduced_softmax_confidence(backbone, counted_batches(), count)
        torch.testing.assert_close(confidence(h_ND, h_ND, head), softmax_response(logits_NV[:, ids]))


@torch.inference_mode()
@pytest.mark.parametrize("vocabulary", [VOCABULARY, VOCABULARY + 5])
def test_the_response_over_all_tokens_is_the_full_one(backbone: Backbone, vocabulary: int) -> None:
    h_ND = torch.randn(6, 24)
    confidence = reduced_softmax_confidence(backbone, counted_batches(), vocabulary)
    torch.testing.assert_close(confidence(h_ND, h_ND, head), softmax_confidence(h_ND, h_ND, backbone.head))
