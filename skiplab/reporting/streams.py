"""Streams of requests: a table, and latency by load."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skiplab.reporting.plots import axes_of, curve_style, legend_outside
from skiplab.reporting.results import Row
from skiplab.reporting.tables import Table, flat_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = ("method", "setting", "arrivals", "load")


def stream_table(rows: Sequence[Row]) -> Table:
    """A line per system, kind of arrivals and load."""
    return flat_table("Streams", [{"load": "", **row} for row in rows], "stream", _LABELS)


def stream_figures(rows: Sequence[Row]) -> "dict[str, Figure]":
    """Milliseconds per token and to the first token, at p95, by requests per second; a panel per kind of arrivals."""
    loaded = [row for row in rows if "load" in row and "error" not in row]
    patterns = list(dict.fromkeys(row["arrivals"] for row in loaded))
    if not patterns:
        return {}
    systems = list(dict.fromkeys((row["method"], row["setting"]) for row in loaded))
    found: dict[str, Figure] = {}
    for figure, label in (("token_ms_p95", "ms per token, p95"), ("first_token_ms_p95", "ms to first token, p95")):
        plot, axes = axes_of(len(patterns), width=3.4, share=True)
        for axis, pattern in zip(axes, patterns, strict=True):
            for number, system in enumerate(systems):
                members = [row for row in loaded if (row["method"], row["setting"]) == system]
                points = sorted((row["requests_per_s"], row[figure]) for row in members if row["arrivals"] == pattern)
                if points:
                    axis.plot(*zip(*points, strict=True), label=" ".join(system), **curve_style(number))
            axis.set(xlabel="requests/s", title=pattern, yscale="log")
        axes[0].set_ylabel(label)
        legend_outside(plot, list(axes))
        found[f"{figure}_by_load"] = plot
    return found
