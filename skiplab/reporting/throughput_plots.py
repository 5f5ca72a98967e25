"""Plots of a throughput run, a panel per number format."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from skiplab.reporting.plot_style import MUTED, Plot, axes_of, legend_outside, styles, tipped
from skiplab.reporting.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def throughput_plots(rows: Sequence[Row], last: Mapping[str, Mapping[str, Any]]) -> dict[str, Plot]:
    """Tokens per second by batch size, decode speedup by bytes speedup, and milliseconds by step.

    Args:
        rows: result rows of a throughput run.
        last: its timing parts at the largest batch size, `row` and `step_ms` by system.
    """
    drawing = _Drawing(rows)
    return {
        "tokens_by_batch": Plot(
            "Tokens per second by batch size",
            "Higher is faster; both axes are logarithmic, so equal distances are equal ratios.",
            drawing.speed(),
        ),
        "realised_speedup": Plot(
            "Measured speedup by the speedup that the bytes allow",
            "A point on the grey line is as fast as reading fewer weights can make it.",
            drawing.realised(),
        ),
        "ms_by_step": Plot(
            "Milliseconds by generation step, largest batch",
            "A schedule shows as a line that falls, the full model's as one that does not.",
            drawing.steps(last),
        ),
    }


@final
class _Drawing:
    def __init__(self, rows: Sequence[Row]) -> None:
        good = [row for row in rows if "error" not in row]
        self._formats = list(dict.fromkeys(row["dtype"] for row in good))
        self._by_system: dict[tuple[str, str], list[Row]] = {}
        for row in good:
            self._by_system.setdefault((f"{row['method']} {row['setting']}", row["dtype"]), []).append(row)
        self._styles = styles((label for label, _ in self._by_system), "full 1x")

    def speed(self) -> "Figure":
        figure, by_format = self._panels("batch size", "tokens/s")
        for (label, dtype), members in self._by_system.items():
            points = sorted((row["batch_size"], row["decode_tokens_per_s"]) for row in members)
            by_format[dtype].plot(*zip(*points, strict=True), label=label, **self._styles[label].line)
            for batch, tokens in points:
                self._tip(by_format[dtype], label, (batch, tokens), f"batch {batch}: {tokens:,.1f} tokens/s")
            by_format[dtype].set(xscale="log", yscale="log")
        legend_outside(figure, list(by_format.values()))
        return figure

    def realised(self) -> "Figure":
        figure, by_format = self._panels("bytes speedup", "measured decode speedup")
        for (label, dtype), members in self._by_system.items():
            points = [row for row in members if "realised_fraction" in row]
            style: dict[str, Any] = {**self._styles[label].line, "linestyle": ""}
            for number, row in enumerate(points):
                drawn = by_format[dtype].plot(
                    [row["bytes_speedup"]], [row["decode_speedup"]], label=None if number else label, **style
                )
                tipped(drawn, f"{label}, batch {row['batch_size']}: {row['decode_speedup']:.2f}x of "
                              f"{row['bytes_speedup']:.2f}x")  # fmt: skip
        for axis in by_format.values():
            axis.axline((1, 1), slope=1, color=MUTED, linewidth=1)
        legend_outside(figure, list(by_format.values()))
        return figure

    def steps(self, last: Mapping[str, Mapping[str, Any]]) -> "Figure":
        figure, by_format = self._panels("generation step", "ms per step, largest batch")
        for part in last.values():
            if part["step_ms"]:
                label = f"{part['row']['method']} {part['row']['setting']}"
                style = {**self._styles[label].line, "marker": ""}
                steps = range(1, len(part["step_ms"]) + 1)
                drawn = by_format[part["row"]["dtype"]].plot(steps, part["step_ms"], label=label, **style)
                tipped(drawn, label)
        for axis in by_format.values():
            axis.set_ylim(bottom=0)
        legend_outside(figure, list(by_format.values()))
        return figure

    def _panels(self, xlabel: str, ylabel: str) -> tuple["Figure", "dict[str, Axes]"]:
        formats = self._formats
        figure, axes = axes_of(len(formats), width=4.0 if len(formats) > 1 else 7.0, share=True)
        for axis, name in zip(axes, formats, strict=True):
            axis.set(xlabel=xlabel, title=name)
        axes[0].set_ylabel(ylabel)
        return figure, dict(zip(formats, axes, strict=True))

    def _tip(self, axis: "Axes", label: str, point: tuple[float, float], text: str) -> None:
        drawn = axis.plot(*([one] for one in point), **{**self._styles[label].line, "linestyle": ""})
        tipped(drawn, f"{label}, {text}")
