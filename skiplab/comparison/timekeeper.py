"""Time the settings of a comparison in turns, on the test set's prompts."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from rich.console import Console
from rich.progress import track

from skiplab.benchmarking.layer_times import layer_times
from skiplab.benchmarking.timing import System, Workload, engine_system, hf_generate_system, interleave
from skiplab.comparison.cases import Case, Entry
from skiplab.comparison.config import Benchmark
from skiplab.comparison.decoders import Decoders, WeightsAndPolicy
from skiplab.comparison.model_store import Models
from skiplab.comparison.prepare import Prepared
from skiplab.data.module import Item
from skiplab.engine.backbone import Backbone
from skiplab.engine.packed_linear import prepack, repack
from skiplab.engine.policy import FullDepth
from skiplab.training.weights import overwrite
from skiplab.utils.progress import Progress
from skiplab.utils.run_folder import RunFolder

Timed = dict[str, list[dict[str, Any]]]


@final
class Timekeeper:
    """Times finished settings into the run folder: `timing` by entry's key, `layers` by its label."""

    def __init__(
        self, prepared: Prepared, models: Models, decoders: Decoders, folder: RunFolder, console: Console
    ) -> None:
        self._options = prepared.config.benchmark
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
        sizes = self._options.batch_sizes
        if not sizes:
            return {}
        done = self._folder.load("timing") or {}
        in_turns = any(len(done.get(entry.key, ())) < len(sizes) for entry in cases)
        layers_at = self._options.layers_at if self._folder.load("layers") is None else None
        if not in_turns:
            self._console.print("timing: finished before")
        errors: dict[Entry, Exception] = {}
        timed = self._timed(cases, places, errors) if in_turns or layers_at else {}
        if timed:
            self._models.let_go()
            worn = Worn(self._models.load, next(iter(timed.values())).weights)
            if in_turns:
                self._console.print(f"timing {len(timed)} systems in turns")
                self._in_turns(worn, timed, next(iter(cases)), [self._workload(lengths, n) for n in sizes], errors)
            if layers_at:
                self._by_layer(worn, timed, self._workload(lengths, layers_at), errors)
        return {entry: f"timing: {type(error).__name__}: {error}" for entry, error in errors.items()}

    def _timed(
        self,
        cases: Mapping[Entry, Case | None],
        places: Mapping[Entry, int | None],
        errors: dict[Entry, Exception],
    ) -> dict[Entry, WeightsAndPolicy]:
        """What is timed, those with the same weights one after the other."""
        made: dict[Entry, WeightsAndPolicy] = {}
        for entry, case in cases.items():
            try:
                if case is None:
                    full = FullDepth(self._models.base.num_layers)
                    made[entry] = WeightsAndPolicy(self._models.base_folder, full)
                else:
                    made[entry] = self._decoders.weights_and_policy(case, places[entry])
            except Exception as error:  # noqa: BLE001 - one setting's failure must spare the others
                # Its frames hold a model.
                errors[entry] = error.with_traceback(None)
        order = list(dict.fromkeys(one.weights for one in made.values()))
        return dict(sorted(made.items(), key=lambda item: order.index(item[1].weights)))

    def _in_turns(
        self,
        worn: "Worn",
        timed: Mapping[Entry, WeightsAndPolicy],
        full: Entry,
        workloads: Sequence[Workload],
        errors: dict[Entry, Exception],
    ) -> None:
        def system(entry: Entry) -> Callable[[Workload], System]:
            if entry.method == "hf_generate":
                return lambda workload: hf_generate_system(worn.backbone)
            policy = timed[entry].policy
            return lambda workload: engine_system(worn.packed(workload.batch_size), policy, workload)

        weights = {entry.key: one.weights for entry, one in timed.items()}
        found, failed = time_systems(
            {entry.key: system(entry) for entry in timed},
            workloads,
            baseline=full.key,
            options=self._options,
            device=self._device,
            before=lambda name: worn.wear(weights[name]),
            progress=lambda work: track(list(work), console=self._console, transient=True),
        )
        errors |= {entry: failed[entry.key] for entry in timed if entry.key in failed}
        self._folder.save("timing", found)

    def _by_layer(
        self, worn: "Worn", timed: Mapping[Entry, WeightsAndPolicy], workload: Workload, errors: dict[Entry, Exception]
    ) -> None:
        found = {}
        for entry, one in timed.items():
            if entry.method != "hf_generate" and entry not in errors:
                try:
                    worn.wear(one.weights)
                    found[entry.label] = layer_times(worn.backbone, one.policy, workload)
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


@final
class Worn:
    """One backbone that takes on the weights of one folder after another, so that memory holds one model, however
    many are timed, and what was recorded on it stays valid.

    Args:
        load: makes a backbone with a folder's weights.
        folder: the first one's.
    """

    def __init__(self, load: Callable[[Path], Backbone], folder: Path) -> None:
        self.backbone = load(folder)
        self._folder: Path | None = folder
        self._packed: tuple[int, Backbone] | None = None

    def packed(self, rows: int) -> Backbone:
        """It, made ready to decode so many rows."""
        if self._packed is None or self._packed[0] != rows:
            self._packed = None
            self._packed = rows, prepack(self.backbone, rows=rows)
        return self._packed[1]

    def wear(self, folder: Path) -> None:
        """Take on a folder's weights."""
        if folder == self._folder:
            return
        # Should it fail midway, these are no folder's weights.
        self._folder = None
        overwrite(self.backbone.model, folder)
        if self._packed is not None:
            repack(self._packed[1])
        self._folder = folder


def time_systems(
    systems: Mapping[str, Callable[[Workload], System]],
    workloads: Sequence[Workload],
    *,
    baseline: str,
    options: Benchmark,
    device: torch.device,
    before: Callable[[str], None] = lambda name: None,
    progress: Progress,
) -> tuple[Timed, dict[str, Exception]]:
    """Each system's result `row` and `step_ms` for each workload, and the errors of those that raised, by name.

    Args:
        systems: what makes each system for a workload.
        baseline: the system that speedups are against.
        options: the configuration's `benchmark`.
        before: as for `interleave`.
    """
    found: Timed = {name: [] for name in systems}
    failed: dict[str, Exception] = {}
    for workload in workloads:
        ready = {name: make(workload) for name, make in systems.items()}
        timings, errors = interleave(
            ready, workload, rounds=options.rounds, warmup=options.warmup, device=device, before=before,
            progress=progress,
        )  # fmt: skip
        for name, timed in timings.items():
            found[name].append({"row": timed.row(timings.get(baseline)), "step_ms": timed.step_ms()})
        failed |= errors
        # What was packed or recorded for this workload.
        del ready
    return {name: parts for name, parts in found.items() if parts}, failed


def spread_workload(
    items: Sequence[Item], lengths: Sequence[int], *, batch_size: int, options: Benchmark, pad_id: int
) -> Workload:
    """Prompts at even places of the length distribution.

    Args:
        lengths: tokens that each item generates, unless `benchmark.new_tokens` says how many.
        options: the configuration's `benchmark`.
    """
    by_length = sorted(range(len(items)), key=lambda index: lengths[index])
    count = batch_size * math.ceil(options.prompts / batch_size)
    # The middles of equal parts, in an order that mixes lengths between batches.
    chosen = [by_length[(2 * part + 1) * len(by_length) // (2 * count)] for part in range(count)]
    chosen = [index for offset in range(count // batch_size) for index in chosen[offset :: count // batch_size]]
    return Workload(
        prompts=[items[index].prompt_ids for index in chosen],
        lengths=[options.new_tokens or max(2, lengths[index]) for index in chosen],
        batch_size=batch_size,
        pad_id=pad_id,
    )
