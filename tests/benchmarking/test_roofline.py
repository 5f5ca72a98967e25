"""Bytes and operations of a step, against values computed by hand."""

import pytest
import torch

from skiplab.backbones.shapes import OPTSpec
from skiplab.benchmarking.roofline import (
    Ceilings,
    Footprint,
    Step,
    bytes_speedup,
    least_seconds,
    step_bytes,
    step_flops,
    steps_of,
)

# Ten layers of 100 bytes, a head of 500; a position holds 2 bytes per layer.
SIZE = Footprint(
    num_layers=10, layer_bytes=100, head_bytes=500, layer_weights=25, head_weights=125, kv_bytes=2, kv_width=1
)


def test_a_step_reads_the_weights_once_and_the_keys_and_values_of_each_row() -> None:
    assert step_bytes(Step(10, 1, 50), SIZE) == 10 * (100 + 50 * 2) + 500
    assert step_bytes(Step(4, 3, 50), SIZE) == 4 * (100 + 3 * 50 * 2) + 500


def test_a_step_multiplies_every_weight_for_every_row() -> None:
    assert step_flops(Step(4, 3, 50), SIZE) == 2 * 3 * (4 * (25 + 50) + 125)


def test_the_head_and_the_cache_limit_the_bytes_speedup() -> None:
    steps = [Step(5, 1, 1), Step(5, 1, 1)]
    assert bytes_speedup(steps, SIZE) == pytest.approx((10 * 102 + 500) / (5 * 102 + 500))
    assert bytes_speedup([Step(10, 1, 1)], SIZE) == 1


def test_the_roofline_takes_the_longer_of_reading_and_multiplying() -> None:
    step = Step(10, 4, 20)
    seconds = step_bytes(step, SIZE) / 1e3
    assert least_seconds([step, step], SIZE, Ceilings(1e3, 1e12)) == pytest.approx(2 * seconds)
    assert least_seconds([step], SIZE, Ceilings(1e12, 1e3)) == pytest.approx(step_flops(step, SIZE) / 1e3)


def test_each_step_has_one_more_position() -> None:
    assert steps_of([3, 2], rows=4, prompt=8) == [Step(3, 4, 9), Step(2, 4, 10)]


def test_the_footprint_is_that_of_the_model() -> None:
    with torch.device("meta"):
        spec = OPTSpec(num_layers=3, hidden_size=64, num_heads=4, max_positions=32, vocab_size=1000)
        backbone = spec.build(vocab_size=10, pad_id=1, bos_id=0, eos_id=2)
    size = Footprint.of(backbone)
    assert size.layer_weights == 4 * 64 * 64 + 2 * 64 * 256
    # The matrices, their biases and two norms.
    assert size.layer_bytes == 4 * (size.layer_weights + 4 * 64 + 256 + 64 + 4 * 64)
    assert size.head_weights == 1000 * 64
    assert size.head_bytes == 4 * (1000 * 64 + 2 * 64)
    assert size.kv_bytes == 2 * 64 * 4
