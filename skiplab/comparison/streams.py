"""One run of `experiment=streams`: in each round, all systems serve the same requests, one after another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, final

from omegaconf import OmegaConf
from rich.console import Console

from skiplab.benchmarking.arrivals import Arrival, arrivals, read_trace
from skiplab.benchmarking.hf_continuous import hf_continuous_rate
from skiplab.benchmarking.streams import Stream, serve
from skiplab.comparison import publish
from skiplab.comparison.config_streams import Streams
from skiplab.comparison.facts import machine
from skiplab.comparison.prepare import Prepared
from skiplab.comparison.stream_systems import StreamBackbone, StreamEntrant, entrants
from skiplab.reporting import html
from skiplab.reporting.results import Row, check_row, write_results
from skiplab.reporting.screen import Screen
from skiplab.reporting.streams import stream_plots, stream_table
from skiplab.reporting.tracker import Tracker
from skiplab.reporting.vocabulary import FIGURES
from skiplab.utils.environment import environment
from skiplab.utils.run_folder import RunFolder

_REFERENCE = "full 1x"
_NOTES = (
    "Medians over interleaved rounds of one run, quartiles in small print. Each round draws its own requests, the same "
    "for all systems. Loads are fractions of a system's own capacity, which is its request rate when all requests "
    "arrive at once. The clock of a stream advances by the time that steps take, and skips idle time. hf_continuous is "
    "Hugging Face's continuous batching at full depth, measured at capacity. The latency target is the p95 of "
    "milliseconds per token at full depth with Poisson arrivals at the middle load."
)


@final
class StreamRounds:
    """Measures all systems round by round. A finished round is kept in the run folder, and not measured again."""

    def __init__(self, prepared: Prepared, folder: RunFolder) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._options: Streams = prepared.config.section("streams")
        self._folder = folder
        self._console = Console()
        self._screen = Screen(self._console)
        self._trace = read_trace(Path(self._options.trace)) if self._options.trace else None

    def run(self, tracker: Tracker) -> bool:
        """All rounds, the table, the tracker."""
        name, rounds = self._config.tracking.experiment, self._config.benchmark.rounds
        backbone = StreamBackbone(self._prepared, self._options)
        systems = entrants(self._prepared, self._options, backbone)
        with tracker.run(name):
            measured = [self._round(number, backbone, systems) for number in range(rounds)]
            rows = self._rows(systems, measured)
            described = {**environment(0), "parameters": sum(one.numel() for one in backbone.plain.parameters())}
            write_results(self._folder.path, job="streams", experiment=name, environment=described, rows=rows)
            self._publish(tracker, rows, described)
        return True

    def _round(
        self, number: int, backbone: StreamBackbone, systems: Mapping[str, StreamEntrant]
    ) -> dict[str, dict[str, float]]:
        """Figures by system, arrivals and load."""
        if (known := self._folder.load(f"round{number}")) is not None:
            self._console.print(f"round {number + 1}: already finished")
            return known
        found: dict[str, dict[str, float]] = {}
        shown = f"systems of round {number + 1} of {self._config.benchmark.rounds}"
        if number == 0:
            # Warm up, so that one-time costs do not count in the first round.
            for system in systems.values():
                serve(system.make(), self._stream("saturated", 1.0, number)[:8], self._prompt(backbone))
        for name, system in self._screen.counting(shown)(systems.items()):
            found |= self._served(name, system, number, backbone)
        if "hf_continuous" in self._options.peers:
            stream, prompt = self._stream("saturated", 1.0, number), self._prompt(backbone)
            rate, tokens = hf_continuous_rate(backbone.plain, stream, prompt, slots=self._options.slots)
            found[_key("hf_continuous", "saturated", None)] = {"requests_per_s": rate, "stream_tokens_per_s": tokens}
        self._folder.save(f"round{number}", found)
        return found

    def _served(
        self, name: str, system: StreamEntrant, number: int, backbone: StreamBackbone
    ) -> dict[str, dict[str, float]]:
        slots, prompt = self._options.slots, self._prompt(backbone)
        if self._trace is not None:
            return {_key(name, "trace", None): serve(system.make(), self._trace, prompt).figures(slots)}
        full: Stream = serve(system.make(), self._stream("saturated", 1.0, number), prompt)
        found = {_key(name, "saturated", None): full.figures(slots)}
        for pattern in self._options.patterns:
            for load in self._options.loads:
                stream = self._stream(pattern, load * full.requests_per_s, number)
                found[_key(name, pattern, load)] = serve(system.make(), stream, prompt).figures(slots)
        return found

    def _stream(self, pattern: str, rate: float, seed: int) -> list[Arrival]:
        lengths = self._prepared.data.selection_pairs.lengths
        return arrivals(lengths, count=self._options.requests, pattern=pattern, rate=rate, seed=seed)

    def _prompt(self, backbone: StreamBackbone) -> Any:
        # Weights are random, so any tokens will do; the last ones of the vocabulary are not special tokens.
        return lambda count: [backbone.vocabulary - 1 - place % 7 for place in range(count)]

    def _rows(self, systems: Mapping[str, StreamEntrant], measured: Sequence[Mapping[str, Any]]) -> list[Row]:
        peer = {"method": "hf_continuous", "setting": "full depth", "seed": 0, "dtype": self._options.dtype}
        labels = {name: system.row for name, system in systems.items()}
        labels["hf_continuous"] = {**peer, "slots": self._options.slots}
        rows: list[Row] = []
        for key in measured[0]:
            name, pattern, load = key.split("|")
            row = {**labels[name], "arrivals": pattern, "requests": len(self._trace or []) or self._options.requests}
            row |= {"load": float(load)} if load else {}
            rows.append({**row, **_over_rounds([part[key] for part in measured])})
        _add_rates_at_target(rows, self._options.loads)
        for row in rows:
            check_row(row)
        return rows

    def _publish(self, tracker: Tracker, rows: list[Row], described: dict[str, Any]) -> None:
        table = stream_table(rows)
        task = f"streams of {self._options.requests} requests with lengths of {self._prepared.data.source.name}"
        page = html.Page(
            title=self._config.tracking.experiment,
            description=self._config.description or "",
            facts=[("task", task), ("machine", machine(described))],
            rows=rows,
            tables=[table],
            plots=stream_plots(rows),
            environment=described,
            config=OmegaConf.to_yaml(OmegaConf.create(self._config.plain)),
            notes=_NOTES,
        )
        publish.publish(tracker, self._folder.path, page)
        for row in rows:
            parts = (row["method"], row["setting"], row["arrivals"], str(row.get("load", "")))
            with tracker.run(" ".join(parts).strip(), nested=True):
                tracker.log_figures(row)
        table.print(self._console)
        self._console.print(f"report: {self._folder.path / 'report.html'}", soft_wrap=True, highlight=False)


def _key(name: str, pattern: str, load: float | None) -> str:
    return f"{name}|{pattern}|{'' if load is None else load}"


def _over_rounds(values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Medians, and quartiles of the figures that have them."""
    found: dict[str, Any] = {}
    for name in values[0]:
        series = [one[name] for one in values]
        found[name] = median(series)
        if f"{name}_quartiles" in FIGURES[name].row_keys:
            low, _, high = quantiles(series, n=4, method="inclusive")
            found[f"{name}_quartiles"] = [low, high]
    return found


def _add_rates_at_target(rows: Sequence[Row], loads: Sequence[float]) -> None:
    """Add to each saturated row the highest rate at which its system meets the latency target (see `_NOTES`)."""
    middle = sorted(loads)[len(loads) // 2] if loads else None

    def is_reference(row: Row) -> bool:
        named = f"{row['method']} {row['setting']}" == _REFERENCE
        return named and row["arrivals"] == "poisson" and row.get("load") == middle

    target = next((row["token_ms_p95"] for row in rows if is_reference(row)), None)
    if target is None:
        return
    for row in rows:
        if row["arrivals"] != "saturated" or "token_ms_p95" not in row:
            continue
        system = (row["method"], row["setting"])
        own = [one for one in rows if (one["method"], one["setting"]) == system and one["arrivals"] != "bursty"]
        rates = [one["requests_per_s"] for one in own if one["token_ms_p95"] <= target]
        if rates:
            row["requests_per_s_at_target"] = max(rates)
