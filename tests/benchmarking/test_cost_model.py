"""Predicted decode times."""

import json
import random
from dataclasses import replace

import pytest

from skiplab.benchmarking.cost_model import CostModel, Evidence, Observation, fit, median_error, relative_errors
from skiplab.benchmarking.roofline import Ceilings, Footprint, steps_of

TRUE = CostModel(per_step=2e-4, per_layer=5e-5, bandwidth=1e10, flops=5e10, row_bandwidth=1.5e10)
CEILINGS = Ceilings(bandwidth=1.5e10, flops=1e11)


def shape(width: int, layers: int) -> Footprint:
    weights = 12 * width * width
    return Footprint(
        num_layers=layers, layer_bytes=4 * weights, head_bytes=4 * 50_000 * width, layer_weights=weights,
        head_weights=50_000 * width, kv_bytes=8 * width, kv_width=2 * width,
    )  # fmt: skip


def observed(depth: float, rows: int, size: Footprint, noise: float = 0.0, seed: int = 0) -> Observation:
    steps = steps_of([depth] * 8, rows=rows, prompt=64)
    seconds = TRUE.seconds(steps, size) * (1 + random.Random(seed).uniform(-noise, noise))
    return Observation([depth] * 8, rows, 64, size, seconds)


def test_a_steps_time_is_overhead_plus_reading_plus_multiplying() -> None:
    size = Footprint(
        num_layers=2, layer_bytes=100, head_bytes=100, layer_weights=5, head_weights=5, kv_bytes=0, kv_width=0
    )
    model = CostModel(per_step=1.0, per_layer=0.5, bandwidth=100.0, flops=10.0, row_bandwidth=150.0)
    # Two layers and the head: 300 bytes take 3 s, or 2 s for one row; 15 weights, twice per row, take 12 s for four.
    assert model.seconds(steps_of([2], rows=1, prompt=0), size) == pytest.approx(1 + 2 * 0.5 + 2)
    assert model.seconds(steps_of([2], rows=4, prompt=0), size) == pytest.approx(1 + 2 * 0.5 + 3 + 12)
    # If they overlap, the longer one counts.
    at_once = replace(model, overlapped=True)
    assert at_once.seconds(steps_of([2], rows=4, prompt=0), size) == pytest.approx(1 + 2 * 0.5 + 12)
    assert at_once.seconds(steps_of([2], rows=1, prompt=0), size) == pytest.approx(1 + 2 * 0.5 + 2)


def test_arithmetic_hidden_by_reading_gets_the_ceilings_rate() -> None:
    size = shape(512, 12)
    true = CostModel(2e-4, 5e-5, bandwidth=1e10, flops=1e15, row_bandwidth=1.5e10, overlapped=True)
    observations = [
        replace(one, seconds=true.seconds(one.steps, size))
        for one in (observed(depth, rows, size) for depth in (12, 6, 2) for rows in (1, 8, 32))
    ]
    model = fit(observations, Ceilings(bandwidth=1.5e10, flops=1e15), overlapped=True)
    assert model.overlapped
    assert model.flops == 1e15
    held_out = observed(4, 16, size)
    expected = true.seconds(held_out.steps, size)
    assert model.seconds(held_out.steps, size) == pytest.approx(expected, rel=0.02)


def test_evidence_is_read_back_and_joins_that_of_another_shape() -> None:
    def evidence(size: Footprint, name: str) -> Evidence:
        fitted = {f"{name} {d} {r}": observed(d, r, size, 0.02) for d in (12, 6, 2) for r in (1, 32)}
        held_out = {f"{name} 4 8": observed(4, 8, size)}
        return Evidence.gather(fitted, held_out, CEILINGS, overlapped=False)

    small, large = evidence(shape(512, 12), "small"), evidence(shape(1024, 24), "large")
    assert Evidence.of(json.loads(json.dumps(small.plain()))) == small
    both = small.with_other(large)
    assert both.fitted.keys() == {*small.fitted, *large.fitted}
    assert both.held_out.keys() == {"small 4 8", "large 4 8"}
    assert both.median_error < 0.05
    with pytest.raises(ValueError, match="both have a setting called 'small 12 1'"):
        small.with_other(small)
    assert small.with_other(Evidence.of(small.plain(), "again")).held_out.keys() == {"small 4 8", "again small 4 8"}


def test_held_out_settings_are_predicted() -> None:
    size, other = shape(512, 12), shape(1024, 24)
    measured = [observed(depth, rows, size, 0.02, seed) for seed, depth in enumerate((12, 6, 2)) for rows in (1, 32)]
    model = fit(measured, CEILINGS)
    held_out = [observed(4, 8, size), observed(12, 16, size), observed(8, 1, other), observed(24, 64, other)]
    assert median_error(model, held_out) < 0.05
    assert max(abs(error) for error in relative_errors(model, held_out)) < 0.15


def test_no_constant_is_faster_than_the_machine() -> None:
    # At a single shape, only the ceilings separate the bytes of a layer from its overhead.
    size = shape(512, 12)
    slow = Ceilings(bandwidth=1e9, flops=1e9)
    model = fit([observed(depth, rows, size) for depth in (12, 6, 2) for rows in (1, 32)], slow)
    assert max(model.bandwidth, model.row_bandwidth, model.flops) <= 1.1e9 * (1 + 1e-9)


def test_constants_without_observations_are_the_ceilings() -> None:
    size = shape(512, 12)
    several = fit([observed(depth, rows, size) for depth in (12, 6, 2) for rows in (8, 32)], CEILINGS)
    assert several.row_bandwidth == CEILINGS.bandwidth
    one = fit([observed(depth, 1, size) for depth in (12, 8, 6, 4, 2)], CEILINGS)
    assert (one.bandwidth, one.flops) == (CEILINGS.bandwidth, CEILINGS.flops)


def test_too_few_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="takes as many measured settings, got 3"):
        fit([observed(depth, 1, shape(512, 12)) for depth in (2, 6, 12)], CEILINGS)
