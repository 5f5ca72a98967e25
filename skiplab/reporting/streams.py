"""Streams of requests: a table, and latency by load."""

from collections.abc import Sequence

from skiplab.reporting.plot_style import Plot, axes_of, legend_outside, styles, tipped
from skiplab.reporting.results import Row
from skiplab.reporting.tables import Table, flat_table

_LABELS = ("method", "setting", "arrivals", "load")


def stream_table(rows: Sequence[Row]) -> Table:
    """A line per system, kind of arrivals and load."""
    return flat_table("Streams", [{"load": "", **row} for row in rows], "stream", _LABELS)


def stream_plots(rows: Sequence[Row]) -> dict[str, Plot]:
    """Milliseconds per token and to the first token, at p95, by requests per second; a panel per kind of arrivals."""
    loaded = [row for row in rows if "load" in row and "error" not in row]
    patterns = list(dict.fromkeys(row["arrivals"] for row in loaded))
    if not patterns:
        return {}
    systems = list(dict.fromkeys((row["method"], row["setting"]) for row in loaded))
    looks = styles(" ".join(system) for system in systems)
    found: dict[str, Plot] = {}
    for figure, label in (("token_ms_p95", "ms per token, p95"), ("first_token_ms_p95", "ms to first token, p95")):
        drawn, axes = axes_of(len(patterns), share=True)
        for axis, pattern in zip(axes, patterns, strict=True):
            for system in systems:
                name = " ".join(system)
                members = [row for row in loaded if (row["method"], row["setting"]) == system]
                points = sorted((row["requests_per_s"], row[figure]) for row in members if row["arrivals"] == pattern)
                if points:
                    tipped(axis.plot(*zip(*points, strict=True), label=name, **looks[name].line), name)
            axis.set(xlabel="requests/s", title=pattern, yscale="log")
        axes[0].set_ylabel(label)
        legend_outside(drawn, list(axes))
        sentence = "A panel per kind of arrivals; where a line bends up, the system is at its capacity."
        found[f"{figure}_by_load"] = Plot(f"{label[0].upper()}{label[1:]}, by requests per second", sentence, drawn)
    return found
