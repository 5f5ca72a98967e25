"""CALM as a whole, in all its variants; its parts have tests of their own, with values computed by hand."""

from typing import Any, get_args

import pytest
import torch

from baselines.calm import CALM
from baselines.calm_policy import ConfidenceExit, ExactExit, IdealExit
from baselines.calm_threshold import decoded_depth
from skiplab.engine.backbone import Backbone
from skiplab.engine.decode import decode
from skiplab.engine.policy import BatchPolicy, ExitPolicy, FullDepth, Scheduled
from skiplab.methods.base import Optimization, Setup
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.test_conformance import (
    STEPS,
    check_leaving_rows,
    check_parallel_forward,
    check_rows_alone,
    some_batch,
    train_probes,
)
from tests.tiny import PAD, prompts, tiny_backbone

# The softmax response over 20 of 48 tokens is one of them.
CONFIDENCES: list[str | dict[str, Any]] = [
    "softmax",
    {"name": "softmax", "vocabulary": 20},
    "state",
    "classifier",
    {"name": "classifier", "loss": "geometric"},
]
BATCH_POLICIES: tuple[BatchPolicy, ...] = get_args(BatchPolicy)

confidences = pytest.mark.parametrize(
    "confidence", CONFIDENCES, ids=lambda one: one if isinstance(one, str) else "-".join(map(str, one.values()))
)


def build(backbone: Backbone, **options: Any) -> CALM:
    torch.manual_seed(0)
    return CALM(Setup(backbone, [12, 20, 14], Optimization(learning_rate=1e-3)), **options)


# Trained once for all thresholds and batch policies, on which they do not depend.
TRAINED: dict[str, list[dict[str, torch.Tensor]]] = {}


def calm_policy(backbone: Backbone, **options: Any) -> ExitPolicy:
    module = build(backbone, **options)
    key = f"{backbone.model.config} {[probe.shared_recipe() for probe in module.probes]}"
    if key not in TRAINED:
        train_probes(module)
        TRAINED[key] = [probe.state_dict() for probe in module.probes]
    for probe, weights in zip(module.probes, TRAINED[key], strict=True):
        probe.load_state_dict(weights)
        probe.eval()
    return module.exit_policy([some_batch(1), some_batch(2)])


@confidences
@pytest.mark.parametrize("batch_policy", BATCH_POLICIES)
def test_decoded_logits_are_those_of_the_layers_that_ran(
    backbone: Backbone, confidence: str | dict[str, Any], batch_policy: BatchPolicy
) -> None:
    depths: set[int] = set()
    # With batch policy min, rows exit late under a threshold that was matched on independent rows.
    speedups = (2, 3, 4, 5, 5.5) if batch_policy == "min" else (2,)
    for policy in (
        calm_policy(backbone, speedup=speedup, batch_policy=batch_policy, confidence=confidence) for speedup in speedups
    ):
        depth_BT = check_parallel_forward(backbone, policy, prompts(4)).depth_BT
        depths |= set(depth_BT[:, 1:].unique().tolist())
        if batch_policy == "min":
            assert (depth_BT == depth_BT[:1]).all()
        else:
            check_rows_alone(backbone, policy, prompts(3, seed=3))
            check_leaving_rows(backbone, policy, prompts(4, seed=4), [3, STEPS, 1, 6])
    assert len(depths) > 1


@confidences
@pytest.mark.parametrize("batch_policy", BATCH_POLICIES)
def test_threshold_one_is_full_depth_and_zero_is_the_first_exit(
    confidence: str | dict[str, Any], batch_policy: BatchPolicy
) -> None:
    backbone, rows, limits = tiny_backbone(), prompts(4), [12, 5, 12, 8]
    first_exit = Scheduled(ExitSchedule(num_layers=6, max_exit=2, min_exit=2, horizon=2), "terminate")
    for threshold, propagation, same in (
        (1.0, "lazy", FullDepth(6)),
        (0.0, "lazy", first_exit),
        (0.0, "eager", first_exit),
    ):
        policy = calm_policy(
            backbone,
            threshold=threshold,
            exits={"first": 2},
            batch_policy=batch_policy,
            propagation=propagation,
            confidence=confidence,
        )
        adaptive, fixed = (
            decode(backbone, policy, rows, max_new_tokens=limits, eos_id=None, pad_id=PAD) for policy in (policy, same)
        )
        assert torch.equal(adaptive.tokens_BT, fixed.tokens_BT)
        assert torch.equal(adaptive.depth_BT, fixed.depth_BT)


@confidences
def test_threshold_one_of_the_exact_exit_is_full_depth(backbone: Backbone, confidence: str | dict[str, Any]) -> None:
    policy = calm_policy(backbone, threshold=1.0, propagation="exact", confidence=confidence)
    exact, full = (
        decode(backbone, policy, prompts(4), max_new_tokens=12, eos_id=None, pad_id=PAD)
        for policy in (policy, FullDepth(6))
    )
    assert torch.equal(exact.tokens_BT, full.tokens_BT)
    assert torch.equal(exact.depth_BT, full.depth_BT)


@confidences
def test_compact_decodes_as_freeze_does_at_every_threshold(confidence: str | dict[str, Any]) -> None:
    backbone, rows, limits = tiny_backbone(), prompts(5, seed=6), [12, 3, 9, 1, 12]
    depths = set()
    for threshold in (0.03, 0.1, 0.3, 0.5, 0.6, 0.9):
        policies = (
            calm_policy(backbone, threshold=threshold, batch_policy=batch_policy, confidence=confidence)
            for batch_policy in ("freeze", "compact")
        )
        freeze, compact = (
            decode(backbone, policy, rows, max_new_tokens=limits, eos_id=None, pad_id=PAD) for policy in policies
        )
        assert torch.equal(freeze.tokens_BT, compact.tokens_BT)
        assert torch.equal(freeze.depth_BT, compact.depth_BT)
        depths |= set(compact.depth_BT[compact.depth_BT > 0].tolist())
    assert len(depths) > 2


@confidences
def test_a_threshold_is_matched_to_a_speedup(confidence: str | dict[str, Any]) -> None:
    backbone, batches = tiny_backbone(), [some_batch(1), some_batch(2)]
    depths = []
    for speedup in (1.2, 2, 4):
        policy = calm_policy(backbone, speedup=speedup, confidence=confidence)
        depths.append(decoded_depth(backbone, policy, batches))
        # There are so few tokens that a slightly higher threshold changes the exits of a tenth of them.
        assert depths[-1] == pytest.approx(6 / speedup, rel=0.2)
    assert depths == sorted(depths, reverse=True)


def test_a_decaying_threshold_is_matched_to_a_speedup() -> None:
    backbone, batches = tiny_backbone(), [some_batch(1), some_batch(2)]
    for formula in ("paper", "code"):
        policy = calm_policy(backbone, speedup=2, decay={"temperature": 4, "formula": formula})
        assert decoded_depth(backbone, policy, batches) == pytest.approx(3, rel=0.15)


def test_options_reach_the_policy() -> None:
    backbone = tiny_backbone()
    policy = calm_policy(backbone, threshold=0.6, exits={"first": 2, "interval": 2}, batch_policy="compact")
    assert isinstance(policy, ConfidenceExit)
    assert (list(policy.exit_layers), policy.batch_policy, policy.propagation) == ([1, 3], "compact", "lazy")
    eager = calm_policy(backbone, threshold=0.6, batch_policy="min", propagation="eager")
    assert isinstance(eager, ConfidenceExit)
    assert (list(eager.exit_layers), eager.batch_policy, eager.propagation) == ([0, 1, 2, 3, 4], "min", "eager")
    assert eager.threshold == 0.6
    assert isinstance(calm_policy(backbone, threshold=0.6, propagation="exact"), ExactExit)
    for propagation in ("lazy", "exact"):
        ideal = calm_policy(backbone, confidence="ideal", propagation=propagation)
        assert isinstance(ideal, IdealExit)
        assert ideal.exact_kv == (propagation == "exact")


def test_thresholds_decay_over_the_longest_output() -> None:
    backbone = tiny_backbone()
    policy = calm_policy(backbone, confidence="state", threshold=0.5, decay={"temperature": 2})
    assert isinstance(policy, ConfidenceExit)
    # Equation 5 at step 10 of 20: 0.45 + 0.1 exp(-1) = 0.4868.
    h_BD = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    cosines = torch.tensor([0.486, 0.488])
    below_BD = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    assert policy.exits(h_BD, below_BD, layer=0, step_B=torch.tensor([10, 10]), head=backbone.head).tolist() == [
        False,
        True,
    ]


def test_all_variants_share_one_training() -> None:
    backbone = tiny_backbone()
    variants = [
        build(backbone, threshold=0.5),
        build(backbone, speedup=2, confidence="classifier", batch_policy="compact"),
        build(backbone, confidence="ideal"),
    ]
    assert all(module.recipe == variants[0].recipe for module in variants)
    assert [module.target_speedup for module in variants] == [None] * 3
