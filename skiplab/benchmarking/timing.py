"""Interleaved timing of whole decoding runs, with prefill timed separately.

The clock is outside the model: it is read when a step's tokens are known. Systems take turns (A B C A B C ...), so that
drift in the machine's speed affects all of them.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from skiplab.benchmarking.rounds import Round, Rounds
from skiplab.engine.backbone import Backbone
from skiplab.engine.decode import DecodeResult, decode_request
from skiplab.engine.draft_length import DraftCounts
from skiplab.engine.fast_path import recorded_batches
from skiplab.engine.generation import GREEDY, GenerationOptions
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.recorded_batches import RecordedBatches, unrecordable
from skiplab.engine.request import Decoding
from skiplab.utils.peak_memory import peak_memory
from skiplab.utils.progress import Progress


@dataclass(frozen=True)
class Workload:
    """Prompts, with the number of tokens that each must generate.

    Every system then generates the same number of tokens, with the length distribution of the data.
    """

    prompts: Sequence[Sequence[int]]
    lengths: Sequence[int]
    batch_size: int
    pad_id: int

    def batches(self) -> list[tuple[Sequence[Sequence[int]], Sequence[int]]]:
        starts = range(0, len(self.prompts), self.batch_size)
        return [(self.prompts[s : s + self.batch_size], self.lengths[s : s + self.batch_size]) for s in starts]


@dataclass
class Clock:
    """When a batch began, and when each step's tokens were known.

    On a GPU the times are CUDA events: recording them does not synchronise.
    """

    device: torch.device
    _marks: list[Any] = field(default_factory=list)

    def read(self) -> None:
        if self.device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record(torch.cuda.current_stream(self.device))
            self._marks.append(mark)
        else:
            self._marks.append(time.perf_counter())

    def times(self) -> list[float]:
        """In seconds from the first."""
        first, *_ = self._marks
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return [first.elapsed_time(mark) / 1e3 for mark in self._marks]
        return [mark - first for mark in self._marks]

    def on_step(self, step: int, index_B: Tensor, logits_BV: Tensor) -> None:
        self.read()


System = Callable[[Sequence[Sequence[int]], Sequence[int], int, Clock], DecodeResult | None]
"""Decodes a batch (prompts, lengths, pad id) and reads the clock at each step; None for other engines."""


def engine_system(
    backbone: Backbone,
    policy: ExitPolicy,
    workload: Workload | None = None,
    *,
    options: GenerationOptions = GREEDY,
    record: bool = True,
) -> System:
    """skiplab's decode under a policy.

    Args:
        workload: on a GPU, the first call records steps for the shape of this workload; None records none.
        options: how tokens are chosen, one output per prompt. Ends of sequence are ignored.
        record: as in `StepGraphs`.
    """

    @cache
    def graphs() -> RecordedBatches | None:
        if workload is None or backbone.device.type != "cuda" or unrecordable(policy):
            return None
        return recorded_batches(policy)(
            backbone, policy, rows=workload.batch_size, prompt_columns=max(map(len, workload.prompts)),
            new_tokens=max(workload.lengths), record=record,
        )  # fmt: skip

    def run(prompts: Sequence[Sequence[int]], lengths: Sequence[int], pad_id: int, clock: Clock) -> DecodeResult:
        decoding = Decoding(options, max(lengths), eos_id=None, pad_id=pad_id, device=backbone.device)
        request = decoding.request(prompts, limits=lengths)
        return decode_request(backbone, policy, request, on_step=clock.on_step, graphs=graphs())

    return run


@dataclass(frozen=True)
class Timing:
    """One system's rounds on one workload.

    Attributes:
        kv_bytes: size of a batch's largest KV cache; None if unknown.
        layers_per_step: layers run per decode step of a batch; the deepest row of a step counts.
        tokens: generated tokens of each prompt; empty if unknown.
        peak_memory_bytes: peak memory of decoding, without the weights; None if unknown.
        drafts: totals over the batches of the last round; None without drafts.
    """

    rounds: list[Round]
    workload: Workload
    kv_bytes: int | None
    layers_per_step: float | None
    tokens: list[list[int]]
    peak_memory_bytes: int | None = None
    drafts: DraftCounts | None = None

    def row(self, baseline: "Timing | None") -> dict[str, Any]:
        """Speed figures: medians over rounds, quartiles of the throughput and of the speedups.

        Speedups are the ratios of times round by round against `baseline` in the same run; without a baseline there are
        none.
        """
        tokens, rows = sum(self.workload.lengths), len(self.workload.lengths)
        batches = self.workload.batches()
        steps = sum(max(lengths) - 1 for _, lengths in batches)
        rates = [(tokens - rows) / run.decode for run in self.rounds]
        row: dict[str, Any] = {
            "batch_size": self.workload.batch_size,
            "decode_tokens_per_s": statistics.median(rates),
            "decode_tokens_per_s_quartiles": quartiles(rates),
            "decode_ms_per_token": 1e3 * statistics.median(run.decode for run in self.rounds) / (tokens - rows),
            "decode_ms_per_step": 1e3 * statistics.median(run.decode for run in self.rounds) / steps,
            "prefill_ms": 1e3 * statistics.median(run.prefill for run in self.rounds) / len(batches),
            "end_to_end_tokens_per_s": tokens / statistics.median(run.total for run in self.rounds),
            "timing_rounds": len(self.rounds),
        }
        if self.layers_per_step is not None:
            row["layers_per_step"] = self.layers_per_step
        if self.kv_bytes is not None:
            row["kv_bytes"] = self.kv_bytes
        if self.drafts is not None:
            row |= self.drafts.figures
        if self.peak_memory_bytes is not None:
            row["peak_memory_bytes"] = self.peak_memory_bytes
        if baseline is not None:
            for name, part in (("decode", "decode"), ("prefill", "prefill"), ("end_to_end", "total")):
                pairs = zip(baseline.rounds, self.rounds, strict=True)
                speedups = [getattr(base, part) / getattr(run, part) for base, run in pairs]
                row |= {
                    f"{name}_speedup": statistics.median(speedups),
                    f"{name}_speedup_quartiles": quartiles(speedups),
                }
            if self.layers_per_step is not None and baseline.layers_per_step is not None:
                row["step_layer_speedup"] = baseline.layers_per_step / self.layers_per_step
        return row

    def step_ms(self) -> list[float]:
        """Median over rounds of each decode step's mean milliseconds, from step 1."""
        return [statistics.median(times) for times in zip(*(run.step_ms for run in self.rounds), strict=True)]


def interleave(
    systems: Mapping[str, System],
    workload: Workload,
    *,
    rounds: Rounds,
    device: torch.device,
    count_memory: bool = False,
    before: Callable[[str], None] = lambda name: None,
    progress: Progress = iter,
) -> tuple[dict[str, Timing], dict[str, Exception]]:
    """Time all systems in turns.

    A system that raises is dropped; the others continue.

    Args:
        before: called with a system's name before each of its turns, outside the clock.
        count_memory: whether to measure memory in the first warm-up round, which makes that round slower.

    Returns:
        Timings, and errors of the systems that raised, by name.
    """
    measured: dict[str, list[Round]] = {name: [] for name in systems}
    results: dict[str, list[DecodeResult]] = {}
    peaks: dict[str, int] = {}
    errors: dict[str, Exception] = {}
    for number in progress(range(rounds.warmup + rounds.most)):
        for name, system in systems.items():
            if name in errors:
                continue
            try:
                before(name)
                counts = count_memory and number == 0 and rounds.warmup
                with peak_memory(device) if counts else nullcontext() as peak:
                    run, results[name] = _run(system, workload, device)
                if peak is not None:
                    peaks[name] = peak()
            except Exception as error:  # noqa: BLE001 - any failure of one system must spare the others
                errors[name] = error
            else:
                if number >= rounds.warmup:
                    measured[name].append(run)
        if rounds.enough(runs for name, runs in measured.items() if name not in errors):
            break
    timings = {
        name: _timing(runs, workload, results[name], peaks.get(name) or None)
        for name, runs in measured.items()
        if name not in errors
    }
    return timings, errors


def _timing(runs: list[Round], workload: Workload, results: Sequence[DecodeResult], peak: int | None) -> Timing:
    return Timing(
        runs,
        workload,
        kv_bytes=max((result.kv_bytes for result in results), default=None),
        peak_memory_bytes=peak,
        # Rounds of drafts are no steps.
        layers_per_step=None if any(result.drafts for result in results) else _layers_per_step(results),
        tokens=[tokens for result in results for tokens in result.sequences()],
        drafts=DraftCounts.total([result.drafts for result in results if result.drafts is not None]),
    )


def quartiles(values: Sequence[float]) -> list[float]:
    """First and third quartile."""
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def _run(system: System, workload: Workload, device: torch.device) -> tuple[Round, list[DecodeResult]]:
    prefill = decoding = 0.0
    steps: list[list[float]] = []
    results: list[DecodeResult] = []
    for prompts, lengths in workload.batches():
        clock = Clock(device)
        clock.read()
        if (result := system(prompts, lengths, workload.pad_id, clock)) is not None:
            results.append(result)
        _, first, *later = times = clock.times()
        prefill += first
        decoding += times[-1] - first
        for step, (before, after) in enumerate(zip([first, *later], later, strict=False)):
            if step == len(steps):
                steps.append([])
            steps[step].append(1e3 * (after - before))
    return Round(prefill, decoding, prefill + decoding, [statistics.mean(times) for times in steps]), results


def _layers_per_step(results: Sequence[DecodeResult]) -> float | None:
    depths = [depth for result in results for depth in result.depth_BT.amax(0)[1:].tolist()]
    return statistics.mean(depths) if depths else None
