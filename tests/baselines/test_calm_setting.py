"""A setting of CALM: its names, what is refused, and confidence measures that a user adds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch

from baselines.calm import CALM
from baselines.calm_policy import ConfidenceExit
from baselines.confidence import CONFIDENCE_MEASURES, Confidence, ConfidenceMeasure, confidence_measure
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.methods.base import Optimization, Setup, TrainedModule
from tests.tiny import tiny_backbone


def build(**options: Any) -> CALM:
    return CALM(Setup(tiny_backbone(), [12, 20, 14], Optimization(learning_rate=1e-3)), **options)


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"threshold": 0.5}, "softmax 0.5"),
        ({"speedup": 2.5}, "softmax ~2.5x"),
        ({"threshold": 0.25, "confidence": "state", "batch_policy": "min"}, "state 0.25 min"),
        ({"speedup": 2, "confidence": "classifier", "batch_policy": "compact"}, "classifier ~2x compact"),
        (
            {"speedup": 2, "confidence": {"name": "softmax", "vocabulary": 20}, "propagation": "eager"},
            "softmax ~2x of 20 tokens eager",
        ),
        ({"threshold": 0.5, "decay": {"temperature": 4, "formula": "code"}}, "softmax 0.5 decaying 4 by code"),
        ({"threshold": 0.5, "propagation": "exact"}, "softmax 0.5 exact"),
        ({"threshold": 0.5, "decay": {"temperature": None, "formula": "code"}}, "softmax 0.5 by code"),
        ({"speedup": 2, "confidence": {"name": "classifier"}}, "classifier ~2x"),
        ({"speedup": 2, "confidence": {"name": "classifier", "loss": "geometric"}}, "classifier ~2x geometric"),
        ({"speedup": 2, "exits": {"first": 3}}, "softmax ~2x from layer 3"),
        ({"speedup": 2, "exits": {"first": 2, "interval": 2}}, "softmax ~2x from layer 2 every 2 layers"),
        ({"confidence": "ideal"}, "ideal"),
        ({"confidence": "ideal", "propagation": "exact"}, "ideal exact"),
    ],
)
def test_settings_are_named_by_what_differs(options: dict[str, Any], setting: str) -> None:
    assert build(**options).setting == setting


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of threshold, speedup and quantile, got none"),
        (
            {"threshold": 0.5, "speedup": 2},
            "one of threshold, speedup and quantile, got {'threshold': 0.5, 'speedup': 2}",
        ),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"speedup": 7}, "speedup must lie between 1 and 6, that of exits after 1 of 6 layers, got 7"),
        ({"threshold": 0.5, "decay": {"temperature": -1}}, "temperature must be at least 0"),
        (
            {"threshold": 0.5, "decay": {"formula": "book"}},
            "unknown calm decay formula 'book'; choose one of paper, code",
        ),
        (
            {"threshold": 0.5, "confidence": "entropy"},
            "unknown calm confidence 'entropy'; choose one of softmax, state, classifier, ideal, or a mapping",
        ),
        (
            {"threshold": 0.5, "batch_policy": "max"},
            "unknown calm batch_policy 'max'; choose one of freeze, min, compact",
        ),
        (
            {"threshold": 0.5, "propagation": "never"},
            "unknown calm propagation 'never'; choose one of lazy, eager, exact",
        ),
        ({"threshold": 0.5, "exits": {"first": 6}}, "no exit: exits.first must lie between 1 and 5 of the 6 layers"),
        ({"threshold": 0.5, "exits": {"interval": 0}}, "interval be at least 1, got 1 and 0"),
        (
            {"threshold": 0.5, "confidence": {"name": "softmax", "vocabulary": 1}},
            "reduces the softmax response to 2 tokens or more, got 1",
        ),
        (
            {"threshold": 0.5, "confidence": {"name": "state", "vocabulary": 9}},
            "confidence state takes no options, got vocabulary",
        ),
        (
            {"threshold": 0.5, "confidence": {"name": "classifier", "loss": "joint"}},
            "unknown calm classifier loss 'joint'; choose one of independent, geometric",
        ),
        ({"threshold": 0.5, "confidence": {"vocabulary": 9}}, "unknown calm confidence {'vocabulary': 9}; choose"),
        ({"confidence": {"name": "ideal", "vocabulary": 9}}, "unknown calm confidence"),
        ({"threshold": 0.5, "exits": {"last": 3}}, "calm's exits takes first, interval, drawn, got last"),
        ({"threshold": 0.5, "decay": "code"}, "calm's decay is a mapping of temperature, formula, got 'code'"),
        (
            {"confidence": "ideal", "threshold": 0.5},
            "ideal exit takes no threshold, speedup, quantile or decay, got {'threshold': 0.5}",
        ),
        (
            {"confidence": "ideal", "speedup": 2},
            "ideal exit takes no threshold, speedup, quantile or decay, got {'speedup': 2}",
        ),
        (
            {"confidence": "ideal", "batch_policy": "min"},
            "oracles let rows exit on their own: batch_policy must be freeze, got min",
        ),
        (
            {"threshold": 0.5, "propagation": "exact", "batch_policy": "compact"},
            "oracles let rows exit on their own: batch_policy must be freeze, got compact",
        ),
    ],
)
def test_bad_hyperparameters_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.fixture
def norm_of_the_state() -> Iterator[None]:
    """A measure defined in one place: a decorated class."""

    @confidence_measure("norm")
    @final
    @dataclass(frozen=True, kw_only=True)
    class NormOfTheState(ConfidenceMeasure):
        scale: float = 1.0

        def words(self) -> list[str]:
            return [f"by {self.scale:g}"] if self.scale != 1 else []

        def confidence(self, backbone: Backbone, valid: Sequence[Batch], probes: Sequence[TrainedModule]) -> Confidence:
            return lambda h_ND, below_ND, head: h_ND.norm(dim=-1) * self.scale

    yield
    del CONFIDENCE_MEASURES["norm"]


@pytest.mark.usefixtures("norm_of_the_state")
def test_a_measure_is_added_in_one_place() -> None:
    module = build(threshold=0.5, confidence={"name": "norm", "scale": 0.25})
    assert module.setting == "norm 0.5 by 0.25"
    policy = module.exit_policy([])
    assert isinstance(policy, ConfidenceExit)
    h_BD = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert policy.exits(h_BD, h_BD, layer=0, step_B=torch.tensor([1, 1]), head=module.backbone.head).tolist() == [
        True,
        False,
    ]
    with pytest.raises(ValueError, match="choose one of softmax, state, classifier, norm, ideal"):
        build(threshold=0.5, confidence="entropy")
