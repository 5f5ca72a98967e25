"""Losses of outputs relative to the full model's, and the outputs that a policy does not change."""

import pytest
import torch

from baselines.calm_policy import ConfidenceExit
from baselines.calm_threshold import Threshold
from baselines.confidence import exit_confidences, softmax_confidence
from skiplab.backbones.shapes import OPTSpec
from skiplab.comparison.metrics import metrics_of
from skiplab.data.module import TextData
from skiplab.data.restaurants import Restaurants
from skiplab.engine.policy import FullDepth
from skiplab.evaluation.consistency import consistency_losses, unmoved
from skiplab.evaluation.generate import Generation, generate

DATA = TextData(Restaurants(train_size=8, valid_size=12, test_size=4), batch_size=4, max_new_tokens=40)
ITEMS = DATA.items("valid")


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    spec = OPTSpec(num_layers=5, hidden_size=16, num_heads=2, max_positions=128, init_std=0.3)
    ids = {"pad_id": DATA.pad_id, "bos_id": DATA.bos_id, "eos_id": DATA.eos_id}
    return spec.build(vocab_size=len(DATA.tokenizer), **ids).eval()


def test_one_full_pass_finds_the_outputs_that_a_policy_does_not_change(backbone) -> None:
    full = generate(backbone, FullDepth(5), DATA, ITEMS, batch_size=4)
    confidences, _ = exit_confidences(backbone, DATA.batches("valid")[0], softmax_confidence, range(4))
    thresholds = [1.0, *(float(confidences.quantile(share)) for share in (0.9999, 0.999, 0.99, 0.5))]
    policies = [ConfidenceExit(5, Threshold(value=value), softmax_confidence) for value in thresholds]
    found = [unmoved(backbone, policy, full, DATA, ITEMS, batch_size=4) for policy in policies]
    for policy, kept in zip(policies, found, strict=True):
        own = generate(backbone, policy, DATA, ITEMS, batch_size=4)
        assert kept == [all(depth == 5 for depth in depths) for depths in own.depths]
        assert all(own.tokens[index] == full.tokens[index] for index, keep in enumerate(kept) if keep)
    assert all(found[0])
    assert not any(found[-1])
    assert any(True in kept and False in kept for kept in found)


def outputs(*texts: str) -> Generation:
    return Generation(list(texts), [[len(text)] for text in texts], [[5]] * len(texts))


def test_losses_by_hand() -> None:
    items = ITEMS[:2]
    good, bad = (item.references[0] for item in items), ("nothing", "at all")
    perfect, poor = outputs(*good), outputs(*bad)
    options = {"items": items, "metrics": metrics_of([], None, DATA)}
    assert consistency_losses(poor, perfect, consistency="risk", metric="slot_accuracy", **options) == [1, 1]
    # An output better than the full model's has loss 0, not a negative one (CALM, equation 11).
    assert consistency_losses(perfect, poor, consistency="risk", metric="rouge_l", **options) == [0, 0]
    half = outputs("a b c d", "a b")
    # ROUGE-L of a b against a b c d: precision 1, recall 1/2, F1 2/3 (equation 10).
    textual = consistency_losses(half, outputs("a b", "a b"), consistency="textual", metric="rouge_l", **options)
    assert textual == pytest.approx([1 / 3, 0], abs=1e-6)
    exact = consistency_losses(half, outputs("w x y z", "a"), consistency="exact", metric="rouge_l", **options)
    assert exact == [0, 1], "tokens are compared, not texts"
