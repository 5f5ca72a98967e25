"""The layers that a search lets draft."""

from itertools import pairwise

import pytest

from skiplab.search.draft_space import draft_layers, hyperparameters


@pytest.mark.parametrize("kind", ["skip", "terminate", "spaced"])
@pytest.mark.parametrize("layers", [2, 5, 12, 30])
def test_drafters_have_the_depth_asked_for(kind: str, layers: int) -> None:
    for depth in range(1, layers):
        plan = draft_layers(kind, depth, layers)  # type: ignore[arg-type]
        assert len(plan) == depth
        assert plan[0] == 0
        assert plan[-1] < layers
        assert all(lower < upper for lower, upper in pairwise(plan))


def test_kinds_differ() -> None:
    plans = [draft_layers(kind, 4, 12) for kind in ("skip", "terminate", "spaced")]  # type: ignore[arg-type]
    assert plans == [(0, 9, 10, 11), (0, 1, 2, 3), (0, 4, 7, 11)]


def test_parameters_become_hyperparameters() -> None:
    params = {"kind": "spaced", "depth": 2, "length": 5, "threshold": 0.6}
    draft = {"length": 5, "threshold": 0.6, "vocabulary": 100}
    assert hyperparameters(params, 6, 100) == {"layers": [0, 5], "draft": draft}
