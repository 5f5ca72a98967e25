"""Measure what the machine can do at most, in the way that decoding asks of it."""

import statistics
import time
from collections.abc import Callable

import torch

from skiplab.cost import Ceilings

_GIBIBYTE = 2**30


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, rounds: int = 7) -> Ceilings:
    """Bandwidth of a matrix-vector product over weights far larger than caches, and speed of a large matrix product.

    Medians over rounds, on torch's present number of threads.
    """
    gpu = device.type == "cuda"
    rows, width = (4 if gpu else 1) * _GIBIBYTE // 4 // (4096 * dtype.itemsize), 4096
    weights, vector = torch.randn(rows, width, device=device).to(dtype), torch.randn(width, 1, device=device).to(dtype)
    edge = 8192 if gpu else 2048
    square = torch.randn(edge, edge, device=device).to(dtype)
    return Ceilings(
        bandwidth=weights.nbytes / _seconds(lambda: weights @ vector, device, rounds),
        flops=2 * edge**3 / _seconds(lambda: square @ square, device, rounds),
    )


def _seconds(work: Callable[[], torch.Tensor], device: torch.device, rounds: int) -> float:
    times = []
    for _ in range(2 + rounds):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
