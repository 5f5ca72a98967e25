"""Measure the machine's ceilings with the access pattern of decoding."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from skiplab.engine.number_format import NumberFormat
from skiplab.engine.packed_linear import Int8Linear

# Approximate seconds per measurement.
_MEASURE_SECONDS = 2.0


def measure_bandwidth(device: torch.device, *, rounds: int = 7) -> float:
    """Bytes per second of a matrix-vector product over float32 weights far larger than caches, on torch's present
    number of threads; median over rounds, the first two left out."""
    rows, width = (2**18 if device.type == "cuda" else 2**14), 4096
    weights, vector = torch.randn(rows, width, device=device), torch.randn(width, device=device)
    return weights.nbytes / _seconds(lambda: weights @ vector, device, rounds)


def measure_matrix_speed(device: torch.device, number_format: NumberFormat, *, rounds: int = 7) -> float:
    """Operations per second of a large square matrix product, two per multiplication and addition; median over
    rounds. Of integers it is that of the layer that decodes with them, rounding of states included."""
    large = 8192 if device.type == "cuda" else 2048
    small = large // 4
    product = _product(small, device, number_format)
    # Libraries load at the first call.
    product()
    seconds = _seconds(product, device, rounds)
    if seconds * (large / small) ** 3 > _MEASURE_SECONDS:
        # Without instructions for the format.
        return 2 * small**3 / seconds
    return 2 * large**3 / _seconds(_product(large, device, number_format), device, rounds)


def _product(edge: int, device: torch.device, number_format: NumberFormat) -> Callable[[], Tensor]:
    square = torch.randn(edge, edge, device=device)
    if number_format.integers:
        # torch's own product of integer matrices is a plain loop on some CPUs.
        product = Int8Linear(nn.Linear(edge, edge, bias=False), rows=edge).product
        return lambda: product(square)
    real = square.to(number_format.states)
    return lambda: real @ real


@torch.inference_mode()
def _seconds(work: Callable[[], Tensor], device: torch.device, rounds: int) -> float:
    times: list[float] = []
    while len(times) < 2 + rounds and sum(times) < _MEASURE_SECONDS:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:] or times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
