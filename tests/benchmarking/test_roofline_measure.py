"""Measured bandwidth and matrix speed of the machine."""

import torch

from skiplab.benchmarking.roofline_measure import measure_bandwidth, measure_matrix_speed
from skiplab.engine.number_format import FORMATS

CPU = torch.device("cpu")


def test_bandwidth_and_matrix_speed_are_plausible() -> None:
    assert 1e8 < measure_bandwidth(CPU, rounds=1) < 1e13
    for name in ("float32", "int8"):
        assert 1e8 < measure_matrix_speed(CPU, FORMATS[name], rounds=1) < 1e15
