"""The dynamic programme against brute force."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.schedules.nested_plan import NestedPlan
from skiplab.search.budget_plan import Importance, best_plan

REACH = (7, 7, 4, 1)
CUTS = (1, 3, 5)


def importances() -> st.SearchStrategy[Importance]:
    loss = st.one_of(st.floats(-1, 5), st.just(math.inf))
    row = st.tuples(loss, loss, st.floats(-0.5, 0.5))
    return st.lists(row, min_size=1, max_size=5).map(lambda rows: Importance(CUTS, tuple(rows)))


def brute_force(importance: Importance, mean_depth: float) -> float | None:
    """The lowest loss of all plans within the budget."""
    losses = []
    for places in itertools.product(range(len(CUTS)), repeat=len(importance.loss_LC)):
        steps = tuple(CUTS[place] for place in places)
        if max(steps) == CUTS[-1] and NestedPlan(steps).mean_depth(REACH) <= mean_depth + 1e-9:
            losses.append(sum(row[place] for row, place in zip(importance.loss_LC, places, strict=True)))
    finite = [loss for loss in losses if math.isfinite(loss)]
    return min(finite, default=None)


@given(importances(), st.floats(0.5, 5))
def test_the_plan_is_optimal(importance: Importance, mean_depth: float) -> None:
    expected = brute_force(importance, mean_depth)
    if expected is None:
        with pytest.raises(ValueError, match="no plan has a mean depth"):
            best_plan(importance, REACH, mean_depth)
        return
    plan = best_plan(importance, REACH, mean_depth)
    assert plan.mean_depth(REACH) <= mean_depth + 1e-9
    loss = sum(row[CUTS.index(steps)] for row, steps in zip(importance.loss_LC, plan.steps_L, strict=True))
    assert loss == pytest.approx(expected)


def test_layers_without_effect_are_dropped_first() -> None:
    rows = ((9.0, 4.0, 0.0), (0.1, 0.05, 0.0), (3.0, 0.2, 0.0))
    assert best_plan(Importance(CUTS, rows), REACH, 2.0).steps_L == (5, 1, 5)
    # Dropping late steps of the third layer costs little.
    assert best_plan(Importance(CUTS, rows), REACH, 1.8).steps_L == (5, 1, 3)


def test_bad_importances() -> None:
    with pytest.raises(ValueError, match="cuts must ascend"):
        Importance((3, 1), ())
    with pytest.raises(ValueError, match="expected 3 losses per layer"):
        Importance(CUTS, ((1.0,),))
