"""Where a decode step's time goes, by kind of work, with torch's profiler."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from skiplab.benchmarking.timing import Clock, System, Workload

_KINDS = (
    # On a CPU operators have names, on a GPU the kernels of cuBLAS, cuDNN and torch.
    ("attention", ("attention", "bmm", "sdpa", "flash", "fmha")),
    ("linear layers", ("linear", "addmm", "::mm", "int_mm", "nvjet", "gemm", "gemv", "splitkreduce", "row_products")),
    ("choice of token", ("aten::max", "argmax", "maxops")),
    ("norms", ("norm",)),
    ("copies", ("copy", "index", "cat", "fill", "memcpy")),
)


def kind_of(operator: str) -> str:
    """The kind of work that an operator's name stands for."""
    name = operator.lower()
    return next((kind for kind, parts in _KINDS if any(part in name for part in parts)), "other operators")


def step_profile(system: System, workload: Workload, device: torch.device) -> dict[str, float]:
    """Milliseconds per decode step by kind, and under `host` what operators do not account for.

    Operators are timed in one pass under the profiler, the step in another without it; on a GPU operators are
    its kernels.
    """
    (prompts, lengths), *_ = workload.batches()
    system(prompts, lengths, workload.pad_id, Clock(device))
    clock = Clock(device)
    system(prompts, lengths, workload.pad_id, clock)
    _, first, *_, last = clock.times()
    steps = max(lengths) - 1
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    profiler = profile(activities=activities, acc_events=True)
    watched = _Watched(device, profiler.start)
    system(prompts, lengths, workload.pad_id, watched)
    profiler.stop()
    found: dict[str, float] = {}
    for event in profiler.key_averages():
        taken = event.self_device_time_total if gpu else event.self_cpu_time_total
        kind = kind_of(event.key)
        found[kind] = found.get(kind, 0.0) + taken / 1e3 / steps
    found["host"] = 1e3 * (last - first) / steps - sum(found.values())
    return found


class _Watched(Clock):
    """Starts the profiler when the first tokens are known."""

    def __init__(self, device: torch.device, begin: Callable[[], None]) -> None:
        super().__init__(device)
        self._begin: Callable[[], None] | None = begin

    def on_step(self, step: int, index_B: Tensor, logits_BV: Tensor) -> None:
        if self._begin is not None:
            self._begin()
            self._begin = None
