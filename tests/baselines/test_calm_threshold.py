"""CALM's thresholds, against values computed by hand."""

import math
from itertools import pairwise
from typing import Any

import pytest

from baselines.calm_threshold import Decay, Threshold, decoded_depth
from skiplab.engine.batch import collate
from skiplab.engine.policy import Scheduled
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import PAD, tiny_backbone


def test_the_threshold_of_the_paper_is_equation_5() -> None:
    decaying = Threshold(value=0.8, decay=Decay(temperature=4), longest=20)
    assert decaying.at(0) == pytest.approx(0.9 * 0.8 + 0.1)
    assert decaying.at(10) == pytest.approx(0.72 + 0.1 * math.exp(-2))
    assert Threshold(value=1.0, decay=Decay(temperature=4), longest=20).at(0) == 1.0
    assert Threshold(value=0.0, decay=Decay(temperature=4), longest=20).at(5) == pytest.approx(0.1 * math.exp(-1))
    assert Threshold(value=0.5, decay=Decay(temperature=0)).at(7) == pytest.approx(0.55)


def test_the_threshold_of_the_released_code_is_relative_to_its_value() -> None:
    decaying = Threshold(value=0.8, decay=Decay(temperature=4, formula="code"), longest=20)
    assert decaying.at(0) == pytest.approx(0.8)
    assert decaying.at(10) == pytest.approx(0.72 + 0.08 * math.exp(-2))
    assert Threshold(value=0.0, decay=Decay(temperature=4, formula="code"), longest=20).at(5) == 0.0


@pytest.mark.parametrize("formula", ["paper", "code"])
def test_a_threshold_falls_with_the_step_or_stays(formula: Any) -> None:
    falling = Threshold(value=0.7, decay=Decay(temperature=2, formula=formula), longest=9)
    assert all(later < earlier for earlier, later in pairwise(map(falling.at, range(12))))
    constant = Threshold(value=0.7, decay=Decay(formula=formula), longest=9)
    assert {constant.at(step) for step in range(12)} == {0.7}


@pytest.mark.parametrize("value", [1.5, -0.1])
def test_bad_thresholds_say_what_is_wrong(value: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold must lie in \[0, 1\], got {value}"):
        Threshold(value=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0, got -1"),
        ({"formula": "book"}, "unknown calm decay formula 'book'; choose one of paper, code"),
    ],
)
def test_bad_decays_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decay(**options)


def test_decoded_depth_excludes_the_first_token() -> None:
    backbone = tiny_backbone()
    batches = [collate([[5, 6], [7]], [[8, 9, 10], [11]], PAD), collate([[5]], [[6, 7]], PAD)]
    # Three tokens after the first; the prompt passes run all six layers.
    policy = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=2), "terminate")
    assert decoded_depth(backbone, policy, batches) == pytest.approx((5 + 2 + 5) / 3)
