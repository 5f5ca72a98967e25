"""CALM as a whole, in all its variants; its parts by hand are in their own tests."""

from typing import Any, get_args

import pytest
import torch

from baselines.calm import CALM, decoded_depth
from baselines.calm_policy import ConfidenceExit, ExactExit, IdealExit
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import collate
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

# With a softmax response over 20 of 48 tokens as a measure of its own.
MEASURES: list[dict[str, Any]] = [
    {"measure": "softmax"},
    {"measure": "softmax", "vocabulary": 20},
    {"measure": "state"},
    {"measure": "classifier"},
    {"measure": "classifier", "classifier_loss": "geometric"},
]
BATCH_POLICIES: tuple[BatchPolicy, ...] = get_args(BatchPolicy)

measures = pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: "-".join(map(str, measure.values())))


def build(backbone: Backbone, **options: Any) -> CALM:
    torch.manual_seed(0)
    return CALM(Setup(backbone, [12, 20, 14], Optimization(learning_rate=1e-3)), **options)


def calm_policy(backbone: Backbone, **options: Any) -> ExitPolicy:
    module = build(backbone, **options)
    train_probes(module)
    return module.exit_policy([some_batch(1), some_batch(2)])


@measures
@pytest.mark.parametrize("batch_policy", BATCH_POLICIES)
def test_decoded_logits_are_those_of_the_layers_that_ran(
    backbone: Backbone, measure: dict[str, Any], batch_policy: BatchPolicy
) -> None:
    depths: set[int] = set()
    policy = calm_policy(backbone, speedup=2, batch_policy=batch_policy, **measure)
    # A batch that waits for its least confident row exits late under a threshold that suits rows on their own.
    for speedup in (2, 3, 4, 5, 5.5) if batch_policy == "min" else (2,):
        policy = calm_policy(backbone, speedup=speedup, batch_policy=batch_policy, **measure)
        depth_BT = check_parallel_forward(backbone, policy, prompts(4)).depth_BT
        depths |= set(depth_BT[:, 1:].unique().tolist())
        if batch_policy == "min":
            assert (depth_BT == depth_BT[:1]).all()
    assert len(depths) > 1
    if batch_policy != "min":
        check_rows_alone(backbone, policy, prompts(3, seed=3))
        check_leaving_rows(backbone, policy, prompts(4, seed=4), [3, STEPS, 1, 6])


@measures
@pytest.mark.parametrize("batch_policy", BATCH_POLICIES)
def test_threshold_one_is_full_depth_and_zero_the_first_exit(
    measure: dict[str, Any], batch_policy: BatchPolicy
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
            first_exit=2,
            batch_policy=batch_policy,
            propagation=propagation,
            **measure,
        )
        adaptive, fixed = (
            decode(backbone, policy, rows, max_new_tokens=limits, eos_id=None, pad_id=PAD) for policy in (policy, same)
        )
        assert torch.equal(adaptive.tokens_BT, fixed.tokens_BT)
        assert torch.equal(adaptive.depth_BT, fixed.depth_BT)


@measures
def test_threshold_one_of_the_exact_exit_is_full_depth(backbone: Backbone, measure: dict[str, Any]) -> None:
    policy = calm_policy(backbone, threshold=1.0, propagation="exact", **measure)
    exact, full = (
        decode(backbone, policy, prompts(4), max_new_tokens=12, eos_id=None, pad_id=PAD)
        for policy in (policy, FullDepth(6))
    )
    assert torch.equal(exact.tokens_BT, full.tokens_BT)
    assert torch.equal(exact.depth_BT, full.depth_BT)


@measures
def test_compact_decodes_as_freeze_does_at_every_threshold(measure: dict[str, Any]) -> None:
    backbone, rows, limits = tiny_backbone(), prompts(5, seed=6), [12, 3, 9, 1, 12]
    depths = set()
    for threshold in (0.03, 0.1, 0.3, 0.5, 0.6, 0.9):
        policies = (
            calm_policy(backbone, threshold=threshold, batch_policy=batch_policy, **measure)
            for batch_policy in ("freeze", "compact")
        )
        freeze, compact = (
            decode(backbone, policy, rows, max_new_tokens=limits, eos_id=None, pad_id=PAD) for policy in policies
        )
        assert torch.equal(freeze.tokens_BT, compact.tokens_BT)
        assert torch.equal(freeze.depth_BT, compact.depth_BT)
        depths |= set(compact.depth_BT[compact.depth_BT > 0].tolist())
    assert len(depths) > 2


@measures
def test_a_threshold_is_matched_to_a_speedup(measure: dict[str, Any]) -> None:
    backbone, batches = tiny_backbone(), [some_batch(1), some_batch(2)]
    depths = []
    for speedup in (1.2, 2, 4):
        policy = calm_policy(backbone, speedup=speedup, **measure)
        depths.append(decoded_depth(backbone, policy, batches))
        # So few tokens that a threshold a little higher moves a tenth of them.
        assert depths[-1] == pytest.approx(6 / speedup, rel=0.2)
    assert depths == sorted(depths, reverse=True)


def test_a_decaying_threshold_is_matched_to_a_speedup() -> None:
    backbone, batches = tiny_backbone(), [some_batch(1), some_batch(2)]
    for decay in ("paper", "code"):
        policy = calm_policy(backbone, speedup=2, temperature=4, decay=decay)
        assert decoded_depth(backbone, policy, batches) == pytest.approx(3, rel=0.15)


def test_decoded_depth_is_of_the_tokens_after_the_first() -> None:
    backbone = tiny_backbone()
    batches = [collate([[5, 6], [7]], [[8, 9, 10], [11]], PAD), collate([[5]], [[6, 7]], PAD)]
    # Three tokens after the first; the prompt passes run all six layers.
    policy = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=2), "terminate")
    assert decoded_depth(backbone, policy, batches) == pytest.approx((5 + 2 + 5) / 3)


def test_options_reach_the_policy() -> None:
    backbone = tiny_backbone()
    policy = calm_policy(backbone, threshold=0.6, first_exit=2, exit_interval=2, batch_policy="compact")
    assert isinstance(policy, ConfidenceExit)
    assert (list(policy.exit_layers), policy.batch_policy, policy.propagation) == ([1, 3], "compact", "lazy")
    eager = calm_policy(backbone, threshold=0.6, batch_policy="min", propagation="eager")
    assert isinstance(eager, ConfidenceExit)
    assert (list(eager.exit_layers), eager.batch_policy, eager.propagation) == ([0, 1, 2, 3, 4], "min", "eager")
    assert eager.threshold == 0.6
    assert isinstance(calm_policy(backbone, threshold=0.6, propagation="exact"), ExactExit)
    for propagation in ("lazy", "exact"):
        ideal = calm_policy(backbone, measure="ideal", propagation=propagation)
        assert isinstance(ideal, IdealExit)
        assert ideal.exact_kv == (propagation == "exact")


@pytest.mark.parametrize("speedup", [1.25, 2, 5])
def test_drawn_exits_have_the_mean_depth_of_their_speedup(speedup: float) -> None:
    backbone = tiny_backbone()
    for batch_policy in ("freeze", "compact"):
        policy = calm_policy(backbone, measure="drawn", speedup=speedup, batch_policy=batch_policy)
        result = decode(backbone, policy, [[5, 6]] * 40, max_new_tokens=31, eos_id=None, pad_id=0)
        depth_BT = result.depth_BT[:, 1:].float()
        assert depth_BT.mean().item() == pytest.approx(6 / speedup, rel=0.04)
        assert set(depth_BT.unique().tolist()) <= set(range(1, 7))
        assert depth_BT.std() > 0.2


def test_the_least_drawn_row_makes_a_batch_wait() -> None:
    backbone = tiny_backbone()
    policy = calm_policy(backbone, measure="drawn", speedup=2, batch_policy="min")
    depth_BT = decode(backbone, policy, [[5, 6]] * 40, max_new_tokens=8, eos_id=None, pad_id=0).depth_BT[:, 1:]
    assert (depth_BT == 5).all()


def test_thresholds_decay_over_the_longest_output() -> None:
    backbone = tiny_backbone()
    policy = calm_policy(backbone, measure="state", threshold=0.5, temperature=2)
    assert isinstance(policy, ConfidenceExit)
    # Equation 5 at step 10 of 20: 0.45 + 0.1 exp(-1) = 0.4868.
    h_BD = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    cosines = torch.tensor([0.486, 0.488])
    below_BD = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    assert policy.exits(h_BD, below_BD, step=10, head=backbone.head).tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"threshold": 0.5}, "softmax 0.5"),
        ({"speedup": 2.5}, "softmax ~2.5x"),
        ({"threshold": 0.25, "measure": "state", "batch_policy": "min"}, "state 0.25 min"),
        ({"speedup": 2, "measure": "classifier", "batch_policy": "compact"}, "classifier ~2x compact"),
        ({"speedup": 2, "vocabulary": 20, "propagation": "eager"}, "softmax ~2x of 20 tokens eager"),
        ({"threshold": 0.5, "temperature": 4, "decay": "code"}, "softmax 0.5 decaying 4 by code"),
        ({"threshold": 0.5, "propagation": "exact"}, "softmax 0.5 exact"),
        ({"measure": "ideal"}, "ideal"),
        ({"measure": "ideal", "propagation": "exact"}, "ideal exact"),
        ({"measure": "drawn", "speedup": 2, "batch_policy": "min"}, "drawn ~2x min"),
    ],
)
def test_settings_are_named_by_what_differs(options: dict[str, Any], setting: str) -> None:
    assert build(tiny_backbone(), **options).setting == setting


def test_all_variants_share_one_training() -> None:
    backbone = tiny_backbone()
    variants = [
        build(backbone, threshold=0.5),
        build(backbone, speedup=2, measure="classifier", batch_policy="compact"),
        build(backbone, measure="ideal"),
    ]
    assert all(module.recipe == variants[0].recipe for module in variants)
    assert [module.target_speedup for module in variants] == [None] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a threshold or a speedup, got None and None"),
        ({"threshold": 0.5, "speedup": 2}, "either a threshold or a speedup, got 0.5 and 2"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"speedup": 7}, "speedup must lie between 1 and 6, that of exits after 1 of 6 layers, got 7"),
        ({"threshold": 0.5, "temperature": -1}, "temperature must be at least 0"),
        ({"threshold": 0.5, "decay": "book"}, "unknown calm decay 'book'; choose one of paper, code"),
        (
            {"threshold": 0.5, "measure": "entropy"},
            "unknown calm measure 'entropy'; choose one of softmax, state, classifier, ideal, drawn",
        ),
        (
            {"threshold": 0.5, "batch_policy": "max"},
            "unknown calm batch_policy 'max'; choose one of freeze, min, compact",
        ),
        (
            {"threshold": 0.5, "propagation": "never"},
            "unknown calm propagation 'never'; choose one of lazy, eager, exact",
        ),
        ({"threshold": 0.5, "first_exit": 6}, "leave no exit: first_exit must lie between 1 and 5 of the 6 layers"),
        ({"threshold": 0.5, "exit_interval": 0}, "exit_interval be at least 1, got 1 and 0"),
        ({"threshold": 0.5, "vocabulary": 1}, "reduces the softmax response to 2 tokens or more, got 1 with softmax"),
        ({"threshold": 0.5, "vocabulary": 9, "measure": "state"}, "got 9 with state"),
        (
            {"measure": "ideal", "threshold": 0.5},
            "ideal exit takes neither threshold, speedup nor temperature, got 0.5, None and None",
        ),
        (
            {"measure": "ideal", "speedup": 2},
            "ideal exit takes neither threshold, speedup nor temperature, got None, 2 and None",
        ),
        (
            {"measure": "ideal", "batch_policy": "min"},
            "oracles let rows exit on their own: batch_policy must be freeze, got min",
        ),
        ({"measure": "drawn", "threshold": 0.5}, "drawn exits take a speedup, every layer as an exit"),
        ({"measure": "drawn", "speedup": 2, "exit_interval": 2}, "got speedup 2, exits range"),
        (
            {"threshold": 0.5, "propagation": "exact", "batch_policy": "compact"},
            "oracles let rows exit on their own: batch_policy must be freeze, got compact",
        ),
    ],
)
def test_bad_hyperparameters_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny_backbone(), **options)
