"""D3's power-law depth, against values computed by hand, and its solver."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from baselines.d3 import D3, decayed_depth, solve_alpha
from skiplab.methods.base import Optimization, Setup
from skiplab.schedules.exit_schedule import decode_steps, expected_depth, layer_steps
from tests.test_conformance import some_batch
from tests.tiny import tiny_backbone


def depths(alpha: float, *, core: int = 1, start: int = 0, layers: int = 12, steps: int = 7) -> list[int]:
    return [decayed_depth(layers, alpha, step, core=core, start=start) for step in range(steps)]


def test_depth_is_the_floor_of_a_power() -> None:
    assert depths(0.5) == [12, 6, 3, 2, 2, 2, 2]
    # 12, 10.8, 9.72, 8.748, 7.873, 7.086, 6.377.
    assert depths(0.9) == [12, 10, 9, 8, 7, 7, 6]
    assert depths(1.0) == [12] * 7
    assert depths(0.0) == [12, 2, 2, 2, 2, 2, 2]


def test_the_core_always_runs_and_steps_up_to_start_have_full_depth() -> None:
    assert depths(0.5, core=2) == [12, 6, 4, 4, 4, 4, 4]
    assert depths(0.5, start=2) == [12, 12, 12, 6, 3, 2, 2]


def test_a_power_that_is_whole_is_not_rounded_down() -> None:
    # 0.7 ** 2 * 100 falls under 49 in floating point.
    assert 100 * 0.7**2 < 49
    assert depths(0.7, layers=100, steps=3) == [100, 70, 49]


@given(
    target=st.floats(1, 6),
    core=st.integers(1, 3),
    start=st.integers(0, 3),
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=30),
)
def test_the_solver_meets_its_target(target: float, core: int, start: int, lengths: list[int]) -> None:
    assume(max(lengths) > 10)
    try:
        alpha = solve_alpha(target, 24, lengths, core=core, start=start)
    except ValueError:
        # Unreachable even if only the core runs, or between the two closest depths that so few steps allow.
        nearest = [
            24 / expected_depth(lambda step, a=alpha: decayed_depth(24, a, step, core=core, start=start), reach)
            for reach in [decode_steps(lengths)]
            for alpha in [index / 400 for index in range(401)]
        ]
        assert min(abs(found / target - 1) for found in nearest) > 0.045
        return
    mean = expected_depth(lambda step: decayed_depth(24, alpha, step, core=core, start=start), decode_steps(lengths))
    assert 24 / mean == pytest.approx(target, rel=0.0501)


def test_an_unreachable_speedup_is_refused_with_the_reachable_ones() -> None:
    # From step 1 on, at least 4 of 12 layers run.
    with pytest.raises(ValueError, match=r"speedup of 4 cannot be met .* core=2 and start=0: they allow 1 to 3,"):
        solve_alpha(4, 12, [20, 30], core=2, start=0)
    with pytest.raises(ValueError, match=r"speedup of 0.5 cannot be met"):
        solve_alpha(0.5, 12, [20, 30], core=1, start=0)


def build(lengths: list[int], **options: Any) -> D3:
    return D3(Setup(tiny_backbone(), lengths, Optimization(learning_rate=1e-3)), **options)


def test_plans_drop_the_lowest_of_the_middle_and_keep_the_core() -> None:
    lengths = [12, 18, 20, 25]
    module = build(lengths, speedup=1.3, core=2)
    policy = module.exit_policy([])
    plans = [policy.plan(step) for step in range(40)]
    assert plans[0] == (0, 1, 2, 3, 4, 5)
    assert set(plans) == {(0, 1, 2, 3, 4, 5), (0, 1, 3, 4, 5), (0, 1, 4, 5)}
    assert all(set(later) <= set(earlier) for earlier, later in pairwise(plans))
    layer_steps(policy.plan, 6, 39)
    mean = expected_depth(lambda step: len(policy.plan(step)), decode_steps(lengths))
    assert 6 / mean == pytest.approx(1.3, rel=0.05)
    assert plans[25:] == [plans[25]] * 15


def test_it_never_trains() -> None:
    module = build([12, 14, 20], speedup=2)
    assert module.recipe is None
    assert (module.setting, module.target_speedup) == ("2x", 2)
    with pytest.raises(TypeError, match="d3 decodes the base as it is and has no training"):
        module.loss(some_batch())


@pytest.mark.parametrize("options", [{"core": 0}, {"core": 4}, {"start": -1}])
def test_bad_hyperparameters_say_what_is_wrong(options: dict[str, Any]) -> None:
    message = (
        rf"core of 1 to 3 layers at each end and a start of at least 0, got {options.get('core', 1)} and "
        rf"{options.get('start', 0)}"
    )
    with pytest.raises(ValueError, match=message):
        build([12], speedup=2, **options)
