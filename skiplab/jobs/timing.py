"""Time the settings of a comparison in turns, on the test set's prompts."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from rich.console import Console
from rich.progress import track

from skiplab.benchmark import Progress, System, Workload, engine_system, hf_generate_system, interleave
from skiplab.data.module import Item
from skiplab.jobs.cases import Case, Entry
from skiplab.jobs.decoders import Decoder, Decoders
from skiplab.jobs.models import Models
from skiplab.jobs.prepare import Prepared
from skiplab.layer_times import layer_times
from skiplab.prepack import prepack
from skiplab.run_folder import RunFolder

Timed = dict[str, list[dict[str, Any]]]


@final
class Timekeeper:
    """Times finished settings into the run folder: `timing` by entry's key, `layers` by its label."""

    def __init__(
        self, prepared: Prepared, models: Models, decoders: Decoders, folder: RunFolder, console: Console
    ) -> None:
        self._options = prepared.config["benchmark"]
        self._data = prepared.data
        self._device = prepared.device
        self._models = models
        self._decoders = decoders
        self._folder = folder
        self._console = console

    def run(
        self, cases: Mapping[Entry, Case | None], places: Mapping[Entry, int | None], lengths: Sequence[int]
    ) -> dict[Entry, str]:
        """Time what is not timed yet.

        Args:
            cases: what is timed, the full model first; None is Hugging Face's `generate`.
            places: the candidate that each case decodes with.
            lengths: tokens that the full model gave each test item, which all are made to generate.

        Returns:
            The errors of those that raised; the others are timed nevertheless.
        """
        sizes: list[int] = self._options["batch_sizes"]
        if not sizes:
            return {}
        done = self._folder.load("timing") or {}
        in_turns = any(len(done.get(entry.key, ())) < len(sizes) for entry in cases)
        layers_at: int | None = self._options["layers_at"] if self._folder.load("layers") is None else None
        if not in_turns:
            self._console.print("timing: finished before")
        errors: dict[Entry, Exception] = {}
        decoders = self._made(cases, places, errors) if in_turns or layers_at else {}
        if in_turns:
            self._console.print(f"timing {len(decoders)} systems in turns")
            workloads = [self._workload(lengths, size) for size in sizes]
            self._in_turns(decoders, next(iter(cases)), workloads, errors)
        if layers_at:
            self._by_layer(decoders, self._workload(lengths, layers_at), errors)
        return {entry: f"timing: {type(error).__name__}: {error}" for entry, error in errors.items()}

    def _made(
        self,
        cases: Mapping[Entry, Case | None],
        places: Mapping[Entry, int | None],
        errors: dict[Entry, Exception],
    ) -> dict[Entry, Decoder | None]:
        made: dict[Entry, Decoder | None] = {}
        for entry, case in cases.items():
            try:
                made[entry] = None if case is None else self._decoders.get(case, places[entry])
            except Exception as error:  # noqa: BLE001 - one setting's failure must spare the others
                errors[entry] = error
        return made

    def _in_turns(
        self,
        decoders: Mapping[Entry, Decoder | None],
        full: Entry,
        workloads: Sequence[Workload],
        errors: dict[Entry, Exception],
    ) -> None:
        found, failed = time_systems(
            {entry.key: self._system(decoder) for entry, decoder in decoders.items()},
            workloads,
            baseline=full.key,
            options=self._options,
            device=self._device,
            progress=lambda work: track(list(work), console=self._console, transient=True),
        )
        errors |= {entry: failed[entry.key] for entry in decoders if entry.key in failed}
        self._folder.save("timing", found)

    def _system(self, decoder: Decoder | None) -> Callable[[Workload], System]:
        if decoder is None:
            return lambda workload: hf_generate_system(self._models.base)
        return lambda workload: engine_system(
            prepack(decoder.backbone, rows=workload.batch_size), decoder.policy, workload
        )

    def _by_layer(
        self, decoders: Mapping[Entry, Decoder | None], workload: Workload, errors: dict[Entry, Exception]
    ) -> None:
        found = {}
        for entry, decoder in decoders.items():
            if decoder is not None and entry not in errors:
                try:
                    found[entry.label] = layer_times(decoder.backbone, decoder.policy, workload)
                except Exception as error:  # noqa: BLE001 - one setting's failure must spare the others
                    errors[entry] = error
        self._folder.save("layers", found)

    def _workload(self, lengths: Sequence[int], batch_size: int) -> Workload:
        return spread_workload(
            self._data.items("test"),
            lengths,
            batch_size=batch_size,
            options=self._options,
            pad_id=self._data.pad_id,
        )


def time_systems(
    systems: Mapping[str, Callable[[Workload], System]],
    workloads: Sequence[Workload],
    *,
    baseline: str,
    options: Mapping[str, Any],
    device: torch.device,
    progress: Progress,
) -> tuple[Timed, dict[str, Exception]]:
    """Each system's result `row` and `step_ms` for each workload, and the errors of those that raised, by name.

    Args:
        systems: what makes each system for a workload.
        baseline: the system that speedups are against.
        options: the configuration's `benchmark`.
    """
    found: Timed = {name: [] for name in systems}
    failed: dict[str, Exception] = {}
    for workload in workloads:
        ready = {name: make(workload) for name, make in systems.items()}
        timings, errors = interleave(
            ready, workload, rounds=options["rounds"], warmup=options["warmup"], device=device, progress=progress
        )
        for name, timed in timings.items():
            found[name].append({"row": timed.row(timings.get(baseline)), "step_ms": timed.step_ms()})
        failed |= errors
    return {name: parts for name, parts in found.items() if parts}, failed


def spread_workload(
    items: Sequence[Item], lengths: Sequence[int], *, batch_size: int, options: Mapping[str, Any], pad_id: int
) -> Workload:
    """Prompts at even places of the length distribution.

    Args:
        lengths: tokens that each item generates, unless `benchmark.new_tokens` says how many.
        options: the configuration's `benchmark`.
    """
    by_length = sorted(range(len(items)), key=lambda index: lengths[index])
    count = batch_size * math.ceil(options["prompts"] / batch_size)
    # The middles of equal parts, in an order that mixes lengths between batches.
    chosen = [by_length[(2 * part + 1) * len(by_length) // (2 * count)] for part in range(count)]
    chosen = [index for offset in range(count // batch_size) for index in chosen[offset :: count // batch_size]]
    return Workload(
        prompts=[items[index].prompt_ids for index in chosen],
        lengths=[options["new_tokens"] or max(2, lengths[index]) for index in chosen],
        batch_size=batch_size,
        pad_id=pad_id,
    )
