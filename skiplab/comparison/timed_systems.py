"""Time any systems on workloads, interleaved."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from skiplab.benchmarking.timing import System, Workload, interleave
from skiplab.comparison.config import Benchmark
from skiplab.data.module import Item
from skiplab.reporting.record import Timing
from skiplab.utils.progress import Progress

Timed = dict[str, list[Timing]]


def time_systems(
    systems: Mapping[str, Callable[[Workload], System | None]],
    workloads: Sequence[Workload],
    *,
    baseline: str,
    options: Benchmark,
    device: torch.device,
    before: Callable[[str], None] = lambda name: None,
    progress: Progress,
) -> tuple[Timed, dict[str, Exception]]:
    """Each system's speed on each workload, and the errors of those that raised, by name.

    Args:
        systems: by name, a function that makes the system for a workload; None where the system does not serve it.
        baseline: the system to which speedups are relative.
        options: the configuration's `benchmark`.
        before: as for `interleave`.
    """
    found: Timed = {name: [] for name in systems}
    failed: dict[str, Exception] = {}
    for workload in workloads:
        ready = {name: system for name, make in systems.items() if (system := make(workload)) is not None}
        timings, errors = interleave(
            ready, workload, rounds=options.timing, device=device,
            before=before, progress=progress,
        )  # fmt: skip
        for name, timed in timings.items():
            found[name].append(Timing(timed.row(timings.get(baseline)), timed.step_ms()))
        failed |= errors
        # Free packed weights and recorded steps of this workload.
        del ready
    return {name: parts for name, parts in found.items() if parts}, failed


def spread_workload(
    items: Sequence[Item], lengths: Sequence[int], *, batch_size: int, options: Benchmark, pad_id: int
) -> Workload:
    """Prompts at evenly spaced quantiles of the length distribution.

    Args:
        lengths: tokens that each item generates, unless `benchmark.new_tokens` sets the number.
        options: the configuration's `benchmark`.
    """
    by_length = sorted(range(len(items)), key=lambda index: lengths[index])
    count = batch_size * math.ceil(options.prompts / batch_size)
    # The midpoints of equal parts, ordered so that every batch has mixed lengths.
    chosen = [by_length[(2 * part + 1) * len(by_length) // (2 * count)] for part in range(count)]
    chosen = [index for offset in range(count // batch_size) for index in chosen[offset :: count // batch_size]]
    return Workload(
        prompts=[items[index].prompt_ids for index in chosen],
        lengths=[options.new_tokens or max(2, lengths[index]) for index in chosen],
        batch_size=batch_size,
        pad_id=pad_id,
    )
