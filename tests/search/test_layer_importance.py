"""Layer importances, and plans made from them, for known loss functions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiplab.schedules.nested_plan import NestedPlan
from skiplab.search.layer_importance import Plans, cut_points, exchange, measure, solve_in_stages

REACH = [8, 8, 6, 3, 1]
WORTH = (9.0, 0.5, 0.1, 4.0)


def additive(plan: NestedPlan) -> float:
    """A loss that each layer lowers by a fixed amount for each step that it runs."""
    return -sum(worth * steps for worth, steps in zip(WORTH, plan.steps_L, strict=True))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 8))
def test_cut_points_ascend_from_the_prompt_to_the_end(drops: list[int], parts: int) -> None:
    reach = sorted(drops, reverse=True)
    cuts = cut_points(reach, parts)
    assert cuts[0] == 1
    assert cuts[-1] == len(reach) + 1
    assert cuts == sorted(set(cuts))
    assert len(cuts) <= parts + 2


def test_importance_is_the_change_of_loss() -> None:
    about = NestedPlan((6, 4, 6, 1))
    profile = measure(about, additive, [1, 4, 6])
    assert profile.loss == additive(about)
    assert profile.importance.loss_LC == (
        (5 * 9.0, 2 * 9.0, 0.0),
        (3 * 0.5, 0.0, math.inf),
        (pytest.approx(0.5), pytest.approx(0.2), 0.0),
        (0.0, math.inf, math.inf),
    )


def test_the_only_layer_that_runs_to_the_end_is_kept() -> None:
    rows = measure(NestedPlan((6, 4)), lambda plan: 0.0, [1, 4, 6]).importance.loss_LC
    assert rows[0] == (math.inf, math.inf, 0.0)


def test_stages_keep_the_most_important_layers_and_meet_the_budget() -> None:
    plans = solve_in_stages(additive, num_layers=4, reach=REACH, speedups=[4, 2], parts=3, stages=2)
    assert list(plans.solved) == [2, 4]
    assert plans.solved[2].segments() == [(1, (0, 3))]
    assert plans.solved[4].segments() == [(1, (0,))]
    assert plans.exchanged == plans.solved, "for this loss, sums of importances are exact"
    assert plans.profiles[0].about.depth(9) == 4
    assert len(plans.profiles) == 4
    assert Plans.from_plain(plans.plain()) == plans


def test_exchange_finds_a_pair_that_sums_of_importances_miss() -> None:
    def loss(plan: NestedPlan) -> float:
        return 0.0 if plan.plan(5) == (1, 2) else 1.0 - 0.1 * (2 in plan.plan(5))

    found = exchange(NestedPlan((6, 1, 1, 6)), loss)
    assert found == NestedPlan((1, 6, 6, 1))
    assert exchange(NestedPlan((6, 6, 6, 6)), loss) == NestedPlan((6, 6, 6, 6))
