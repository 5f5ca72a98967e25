"""Exits drawn at random."""

from typing import Any

import pytest
import torch

from baselines.drawn_exit import DrawnExit, exit_chances
from skiplab.engine.decode import decode
from skiplab.methods.base import Optimization, Setup
from tests.tiny import tiny_backbone


def build(**options: Any) -> DrawnExit:
    return DrawnExit(Setup(tiny_backbone(), [12, 20, 14], Optimization(learning_rate=1e-3)), **options)


@pytest.mark.parametrize("speedup", [1.25, 2, 5])
@pytest.mark.parametrize("batch_policy", ["freeze", "compact"])
def test_rows_have_the_mean_depth_of_their_speedup(speedup: float, batch_policy: Any) -> None:
    module = build(speedup=speedup, batch_policy=batch_policy)
    policy = module.exit_policy([])
    result = decode(module.backbone, policy, [[5, 6]] * 40, max_new_tokens=31, eos_id=None, pad_id=0)
    depth_BT = result.depth_BT[:, 1:].float()
    assert depth_BT.mean().item() == pytest.approx(6 / speedup, rel=0.04)
    assert set(depth_BT.unique().tolist()) <= set(range(1, 7))
    assert depth_BT.std() > 0.2


def test_a_batch_waits_for_its_deepest_row() -> None:
    module = build(speedup=2, batch_policy="min")
    result = decode(module.backbone, module.exit_policy([]), [[5, 6]] * 40, max_new_tokens=8, eos_id=None, pad_id=0)
    assert (result.depth_BT[:, 1:] == 5).all()


@pytest.mark.parametrize("depth", [1, 1.2, 3, 4.8, 5.5, 6])
def test_chances_give_the_distribution_of_depths(depth: float) -> None:
    left, probabilities = 1.0, []
    for chance in exit_chances(6, depth):
        probabilities.append(left * chance)
        left -= probabilities[-1]
    width = 2 * min(depth - 1, 6 - depth)
    drawn = (depth + width * (torch.rand(200_000) - 0.5) + torch.rand(200_000)).floor().long()
    expected = drawn.bincount(minlength=7)[1:7] / len(drawn)
    assert torch.allclose(torch.tensor(probabilities), expected, atol=0.005)


def test_settings_are_named_by_what_differs() -> None:
    assert build(speedup=2).setting == "drawn ~2x"
    assert build(speedup=2.5, batch_policy="min", propagation="eager").setting == "drawn ~2.5x min eager"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speedup": 7}, "speedup of drawn exits must lie between 1 and 6, the layers, got 7"),
        ({"speedup": 2, "batch_policy": "max"}, "unknown batch_policy of drawn exits 'max'; choose one of freeze, min"),
        (
            {"speedup": 2, "propagation": "exact"},
            "unknown propagation of drawn exits 'exact'; choose one of lazy, eager",
        ),
    ],
)
def test_bad_hyperparameters_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
