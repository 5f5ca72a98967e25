"""One throughput run: interleaved timing at every batch size, hardware bounds, and a cost model fitted to the times."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, final

from omegaconf import OmegaConf
from rich.console import Console

from skiplab.benchmarking.cost_model import CONSTANTS, Evidence, Observation
from skiplab.benchmarking.roofline import Ceilings
from skiplab.benchmarking.roofline_measure import measure_bandwidth, measure_matrix_speed
from skiplab.benchmarking.throughput_spec import bound_figures, policy_steps
from skiplab.benchmarking.timing import Timing, interleave
from skiplab.comparison import publish
from skiplab.comparison.config import RunConfig
from skiplab.comparison.facts import machine
from skiplab.comparison.throughput_entrants import REFERENCE, Entrant, Entrants, Subject
from skiplab.engine.number_format import FORMATS
from skiplab.engine.policy import FullDepth, RowwisePolicy
from skiplab.evaluation.metrics import agreement
from skiplab.reporting import html
from skiplab.reporting.results import Row, check_row, write_results
from skiplab.reporting.screen import Screen
from skiplab.reporting.tables import throughput_table
from skiplab.reporting.throughput_plots import throughput_plots
from skiplab.reporting.tracker import Tracker
from skiplab.utils.environment import environment
from skiplab.utils.run_folder import RunFolder

_NOTES = (
    "Medians over interleaved rounds of one run, quartiles in small print. Speedups are against the full model in the "
    "same number format; `realised` is the decode speedup divided by the bytes speedup; `roofline` is the least time "
    "that the machine's measured bandwidth and matrix speed allow, divided by the measured time. Weights are random: "
    "the figures show only speed."
)


@final
class Throughput:
    """Times all systems by batch size. A finished batch size is kept in the run folder, and not timed again."""

    def __init__(self, config: RunConfig, subject: Subject, folder: RunFolder) -> None:
        self._config = config
        self._subject = subject
        self._spec = subject.spec
        self._device = subject.device
        self._folder = folder
        self._console = Console()
        self._entrants = Entrants(config, subject, folder.path)

    def run(self, tracker: Tracker) -> bool:
        """All batch sizes, the table, the tracker; True if no system failed."""
        name = self._config.tracking.experiment
        with tracker.run(name):
            ceilings = self._measured_ceilings()
            entrants = self._entrants.make()
            parts = [self._batch(size, entrants, ceilings) for size in self._spec.batch_sizes]
            rows = [timed["row"] for part in parts for timed in part.values()]
            models = self._cost_models(entrants, parts, ceilings)
            limits = {dtype: vars(found) for dtype, found in ceilings.items()}
            described = {**environment(0), "ceilings": limits, "cost_model": models}
            write_results(self._folder.path, job="throughput", experiment=name, environment=described, rows=rows)
            self._publish(tracker, rows, parts, described)
        return not any("error" in row for row in rows)

    def _batch(
        self, batch_size: int, entrants: Mapping[str, Entrant], ceilings: Mapping[str, Ceilings]
    ) -> dict[str, dict[str, Any]]:
        if (known := self._folder.load(f"batch{batch_size}")) is not None:
            self._console.print(f"batch size {batch_size}: already finished")
            return known
        self._console.print(f"batch size {batch_size}: timing {len(entrants)} systems in interleaved rounds")
        workload = self._subject.workload(batch_size)
        options = self._config.benchmark
        timings, errors = interleave(
            {name: entrant.system(workload) for name, entrant in entrants.items()},
            workload,
            rounds=options.timing,
            device=self._device,
            count_memory=True,
            progress=Screen(self._console).counting("rounds"),
        )
        found: dict[str, dict[str, Any]] = {}
        for name, entrant in entrants.items():
            if name in errors:
                error = f"{type(errors[name]).__name__}: {errors[name]}"
                found[name] = {"row": {**entrant.row, "batch_size": batch_size, "error": error}, "step_ms": []}
            else:
                row = self._row(entrant, timings, name, ceilings)
                found[name] = {"row": row, "step_ms": timings[name].step_ms()}
            check_row(found[name]["row"])
        self._folder.save(f"batch{batch_size}", found)
        return found

    def _row(self, entrant: Entrant, timings: Mapping[str, Timing], name: str, ceilings: Mapping[str, Ceilings]) -> Row:
        timing, reference = timings[name], timings.get(f"full {REFERENCE} float32")
        row = {**entrant.row, **timing.row(timings.get(f"full 1x {entrant.baseline}"))}
        if isinstance(entrant.policy, FullDepth) and reference is not None:
            row["agreement"] = statistics.mean(agreement(timing.tokens, reference.tokens))
        if entrant.policy is not None and entrant.size is not None:
            steps = policy_steps(entrant.policy, timing, self._spec.prompt_tokens)
            row |= bound_figures(steps, entrant.size, ceilings[entrant.row["dtype"]], row)
        return row

    def _cost_models(
        self,
        entrants: Mapping[str, Entrant],
        parts: Sequence[Mapping[str, dict[str, Any]]],
        ceilings: Mapping[str, Ceilings],
    ) -> dict[str, Any]:
        """By number format, a cost model and its errors on held-out settings; saved for `experiment=capacity`."""
        found: dict[str, Any] = {}
        for dtype in self._spec.dtypes:
            fitted: dict[str, Observation] = {}
            held_out: dict[str, Observation] = {}
            for part in parts:
                for name, timed in part.items():
                    observation = self._observation(entrants[name], timed["row"], dtype)
                    if observation is not None:
                        apart = held_out if self._is_held_out(timed["row"]) else fitted
                        apart[f"{name} batch {timed['row']['batch_size']}"] = observation
            if len(fitted) >= CONSTANTS and held_out:
                overlapped = self._device.type == "cuda"
                found[dtype] = Evidence.gather(fitted, held_out, ceilings[dtype], overlapped=overlapped).plain()
        self._folder.save("cost_model", found)
        return {dtype: {key: model[key] for key in ("constants", "median_error")} for dtype, model in found.items()}

    def _is_held_out(self, row: Row) -> bool:
        settings = (f"{speedup:g}x" for speedup in self._spec.held_out_speedups)
        return row["batch_size"] in self._spec.held_out_batches or row["setting"] in settings

    def _observation(self, entrant: Entrant, row: Row, dtype: str) -> Observation | None:
        """A row as data for the cost model of a number format; None if the format differs, or rows differ in depth."""
        policy, size = entrant.policy, entrant.size
        if policy is None or size is None or isinstance(policy, RowwisePolicy):
            return None
        if row["dtype"] != dtype or row["setting"] == REFERENCE or "error" in row:
            return None
        depths = [len(policy.plan(step)) for step in range(1, self._spec.new_tokens)]
        seconds = row["decode_ms_per_step"] * len(depths) / 1e3
        return Observation(depths, row["batch_size"], self._spec.prompt_tokens, size, seconds)

    def _measured_ceilings(self) -> dict[str, Ceilings]:
        if (known := self._folder.load("ceilings")) is None:
            self._console.print("measuring the machine's bandwidth and matrix speed")
            bandwidth = measure_bandwidth(self._device)
            known = {
                dtype: {"bandwidth": bandwidth, "flops": measure_matrix_speed(self._device, FORMATS[dtype])}
                for dtype in self._spec.dtypes
            }
            self._folder.save("ceilings", known)
        return {dtype: Ceilings(**values) for dtype, values in known.items()}

    def _publish(
        self, tracker: Tracker, rows: list[Row], parts: list[dict[str, dict[str, Any]]], described: dict[str, Any]
    ) -> None:
        table = throughput_table(rows)
        task = f"prompts of {self._spec.prompt_tokens} random tokens, {self._spec.new_tokens} new ones"
        page = html.Page(
            title=self._config.tracking.experiment,
            description=self._config.description or "",
            facts=[("task", task), ("machine", machine(described))],
            rows=rows,
            tables=[table],
            plots=throughput_plots(rows, parts[-1]),
            environment=described,
            config=OmegaConf.to_yaml(OmegaConf.create(self._config.plain)),
            notes=_NOTES,
        )
        publish.publish(tracker, self._folder.path, page)
        for system in parts[0]:
            _track(tracker, system, [part[system] for part in parts])
        table.print(self._console)
        for dtype, model in described["cost_model"].items():
            error = f"{model['median_error']:.1%}"
            self._console.print(f"cost model, {dtype}: median error {error} on held-out settings", highlight=False)
        self._console.print(f"report: {self._folder.path / 'report.html'}", soft_wrap=True, highlight=False)


def _track(tracker: Tracker, system: str, timed: list[dict[str, Any]]) -> None:
    """A child run with a system's figures by batch size."""
    with tracker.run(system, nested=True):
        tracker.log_params({key: timed[0]["row"][key] for key in ("method", "setting", "dtype")})
        for part in timed:
            group = f"batch{part['row']['batch_size']}/"
            tracker.log_figures(part["row"], group=group)
            tracker.log_series(f"{group}step_ms", part["step_ms"], first_step=1)
