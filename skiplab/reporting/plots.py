"""The comparison's plots, as matplotlib figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skiplab.reporting.record import Record, Setting
from skiplab.reporting.results import Row
from skiplab.reporting.vocabulary import FIGURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which is safe for colour-blind readers.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
_MARKERS = "osD^vPX*<>"
# This series is drawn in every panel of the plots by step.
_REFERENCES = ("full", "hf_generate")


@dataclass(frozen=True)
class Curve:
    """One setting of one series, over its seeds.

    Attributes:
        row: its summary.
        depth_by_step: of its first seed.
        speeds: its timing rows by batch size.
        step_ms: milliseconds by decode step, by batch size.
    """

    series: str
    label: str
    row: Row
    depth_by_step: Sequence[float]
    speeds: Mapping[int, Row]
    step_ms: Mapping[int, Sequence[float]]


def curves(summary: Sequence[Row], records: Sequence[Record]) -> list[Curve]:
    """The data of the plots: each setting's summary, with depth and speed of its first record."""
    first: dict[Setting, Record] = {}
    for record in records:
        first.setdefault(record.entry.over_seeds, record)
    found = []
    for row in summary:
        record = first[Setting.of(row)]
        found.append(
            Curve(
                series=record.series,
                label=record.entry.label,
                row=row,
                depth_by_step=record.outputs.depth_by_step(),
                speeds={timing.batch_size: timing.figures for timing in record.timings},
                step_ms={timing.batch_size: timing.step_ms for timing in record.timings},
            )
        )
    return found


def figures(drawn: Sequence[Curve]) -> dict[str, "Figure"]:
    """All plots by name."""
    qualities = [figure.name for figure in FIGURES.shown("plot", {key for curve in drawn for key in curve.row})]
    batches = sorted({batch for curve in drawn for batch in curve.speeds})
    prompted = any("prefill_layer_speedup" in curve.row for curve in drawn)
    in_layers = ["layer_speedup", *(["prefill_layer_speedup"] if prompted else [])]
    measured = ["decode_speedup", *(["prefill_speedup", "end_to_end_speedup"] if prompted else [])]
    found = {f"quality_by_{one}": _quality_figure(drawn, qualities, one) for one in in_layers}
    if any("against" in curve.row for curve in drawn):
        found["difference_from_rival"] = _difference_figure(drawn)
    for batch in batches if len(batches) <= 3 else ():
        found |= {f"quality_by_{one}_batch{batch}": _quality_figure(drawn, qualities, one, batch) for one in measured}
    found["depth_by_step"] = _depth_figure(drawn)
    if batches:
        found["ms_by_step"] = _step_time_figure(drawn, batches)
    if len(batches) > 3:
        found["cost_by_batch"] = _batch_figure(drawn)
    return found


def _quality_figure(
    drawn: Sequence[Curve], qualities: Sequence[str], speedup: str, batch: int | None = None
) -> "Figure":
    """Quality by a speedup, in layers or as measured at a batch size."""
    figure, axes = axes_of(len(qualities))
    for axis, quality in zip(axes, qualities, strict=True):
        for number, (series, members) in enumerate(_by_series(drawn).items()):
            points = []
            for curve in members:
                speeds = curve.row if batch is None else curve.speeds.get(batch, {})
                speed = speeds.get(speedup, 1.0 if speedup == "prefill_layer_speedup" else None)
                if speed is not None and quality in curve.row:
                    value = curve.row[quality]
                    low, high = curve.row.get(f"{quality}_ci95", curve.row.get(f"{quality}_seeds", (value, value)))
                    points.append((speed, value, max(0.0, value - low), max(0.0, high - value)))
            if not points:
                continue
            x, y, below, above = zip(*sorted(points), strict=True)
            axis.errorbar(x, y, yerr=(below, above), label=series, capsize=2, **curve_style(number))
        axis.set(xlabel=FIGURES[speedup].label + ("" if batch is None else f", batch {batch}"))
        axis.set_ylabel(FIGURES[quality].at("plot").label)
    legend_outside(figure, axes)
    return figure


def _difference_figure(drawn: Sequence[Curve]) -> "Figure":
    """The difference between each setting and its rival, with the interval, one line per setting."""
    compared = [curve for curve in drawn if "against" in curve.row]
    rows = [curve.row for curve in compared]
    present = {figure.name for figure in FIGURES if any(f"{figure.name}_difference" in row for row in rows)}
    names = [figure.name for figure in FIGURES.shown("plot", present)]
    figure, axes = axes_of(len(names), height=1.2 + 0.26 * len(compared), share=True)
    for axis, name in zip(axes, names, strict=True):
        for line, curve in enumerate(reversed(compared)):
            middle = curve.row[f"{name}_difference"]
            low, high = curve.row[f"{name}_difference_ci95"]
            axis.plot([low, high], [line, line], color=_COLOURS[2])
            axis.plot([middle], [line], "o", color=_COLOURS[2], markersize=4)
        axis.axvline(0, color="#777777", linewidth=1)
        axis.set_xlabel(f"{FIGURES[name].at('plot').label}, difference")
    labels = [f"{curve.label}  vs  {curve.row['against']}" for curve in reversed(compared)]
    axes[0].set_yticks(range(len(labels)), labels, fontsize=7)
    return figure


def _depth_figure(drawn: Sequence[Curve]) -> "Figure":
    """Mean depth of the outputs that reach each step, one panel per series."""
    return _by_step(drawn, lambda curve: curve.depth_by_step, first_step=0, ylabel="mean layers run")


def _step_time_figure(drawn: Sequence[Curve], batches: Sequence[int]) -> "Figure":
    largest = max(batches)
    return _by_step(
        drawn, lambda curve: curve.step_ms.get(largest, ()), first_step=1, ylabel=f"ms per step, batch {largest}"
    )


def _batch_figure(drawn: Sequence[Curve]) -> "Figure":
    """Layers per step, time per token and speedup, by batch size."""
    figure, axes = axes_of(3)
    wanted = ("layers per step (deepest row)", "ms per token", "decode speedup")
    for number, curve in enumerate(curve for curve in drawn if curve.speeds):
        batches = sorted(curve.speeds)
        values = (
            [curve.speeds[batch].get("layers_per_step") for batch in batches],
            [1e3 / curve.speeds[batch]["decode_tokens_per_s"] for batch in batches],
            [curve.speeds[batch].get("decode_speedup") for batch in batches],
        )
        for axis, line, name in zip(axes, values, wanted, strict=True):
            points = [(batch, value) for batch, value in zip(batches, line, strict=True) if value is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=curve.label, **curve_style(number))
            axis.set(xlabel="batch size", ylabel=name, xscale="log")
            axis.set_xticks(batches, [str(batch) for batch in batches])
            axis.minorticks_off()
    axes[0].set_ylim(bottom=0)
    axes[1].set_yscale("log")
    axes[2].set_ylim(bottom=0)
    legend_outside(figure, axes)
    return figure


def layer_figure(layers: Mapping[str, Sequence[Mapping[str, float]]]) -> "Figure":
    """Where a decode step's time goes, one panel per setting; `layers` holds `layer_times.layer_times` of each."""
    kinds = {
        "layer_ms": "layer",
        "kv_ms": "deferred keys and values",
        "head_ms": "head, for confidence and token",
        "other_ms": "everything else",
    }
    figure, axes = axes_of(len(layers), share=True)
    for axis, (label, measured) in zip(axes, layers.items(), strict=True):
        numbers = range(1, len(measured) + 1)
        below = [0.0] * len(measured)
        for colour, (key, name) in zip(_COLOURS[1:], kinds.items(), strict=False):
            heights = [layer.get(key, 0.0) for layer in measured]
            axis.bar(numbers, heights, bottom=below, color=colour, label=name)
            below = [a + b for a, b in zip(below, heights, strict=True)]
        rows = axis.twinx()
        rows.plot(numbers[:-1], [layer["rows"] for layer in measured[:-1]], "k.-", linewidth=1)
        rows.set_ylim(bottom=0)
        rows.set_ylabel("rows (dots)", fontsize=7)
        rows.spines["top"].set_visible(False)
        axis.set_title(f"{label}: {sum(below):.2f} ms", fontsize=8)
        axis.set_xlabel("layer, and the rest")
    axes[0].set_ylabel("ms per step")
    legend_outside(figure, axes)
    return figure


def throughput_figures(rows: Sequence[Row], last: Mapping[str, Mapping[str, Any]]) -> dict[str, "Figure"]:
    """Tokens per second by batch size, decode speedup by bytes speedup, and milliseconds by step; a panel per format.

    Args:
        rows: result rows of a throughput run.
        last: its timing parts at the largest batch size, `row` and `step_ms` by system.
    """
    good = [row for row in rows if "error" not in row]
    formats = list(dict.fromkeys(row["dtype"] for row in good))
    by_system: dict[tuple[str, str], list[Row]] = {}
    for row in good:
        by_system.setdefault((f"{row['method']} {row['setting']}", row["dtype"]), []).append(row)
    styles = {label: curve_style(number) for number, label in enumerate(dict.fromkeys(label for label, _ in by_system))}

    def panels(xlabel: str, ylabel: str) -> tuple["Figure", dict[str, "Axes"]]:
        figure, axes = axes_of(len(formats), width=3.0 if len(formats) > 1 else 5.0, share=True)
        for axis, name in zip(axes, formats, strict=True):
            axis.set(xlabel=xlabel, title=name)
        axes[0].set_ylabel(ylabel)
        return figure, dict(zip(formats, axes, strict=True))

    speed, by_format = panels("batch size", "tokens/s")
    for (label, dtype), members in by_system.items():
        points = sorted((row["batch_size"], row["decode_tokens_per_s"]) for row in members)
        by_format[dtype].plot(*zip(*points, strict=True), label=label, **styles[label])
        by_format[dtype].set(xscale="log", yscale="log")
    legend_outside(speed, list(by_format.values()))
    realised, by_format = panels("bytes speedup", "measured decode speedup")
    for (label, dtype), members in by_system.items():
        points = [(row["bytes_speedup"], row["decode_speedup"]) for row in members if "realised_fraction" in row]
        style: dict[str, Any] = {**styles[label], "linestyle": ""}
        if points:
            by_format[dtype].plot(*zip(*points, strict=True), label=label, **style)
    for axis in by_format.values():
        axis.axline((1, 1), slope=1, color="#777777", linewidth=1)
    legend_outside(realised, list(by_format.values()))
    steps, by_format = panels("generation step", "ms per step, largest batch")
    for part in last.values():
        if part["step_ms"]:
            label = f"{part['row']['method']} {part['row']['setting']}"
            axis = by_format[part["row"]["dtype"]]
            axis.plot(range(1, len(part["step_ms"]) + 1), part["step_ms"], label=label, **styles[label])
    by_format[formats[0]].set_ylim(bottom=0)
    legend_outside(steps, list(by_format.values()))
    return {"tokens_by_batch": speed, "realised_speedup": realised, "ms_by_step": steps}


def _by_step(drawn: Sequence[Curve], values: Any, *, first_step: int, ylabel: str) -> "Figure":
    series = _by_series(drawn)
    references = [members[0] for members in series.values() if members[0].row["method"] in _REFERENCES]
    panels = {name: members for name, members in series.items() if members[0].row["method"] not in _REFERENCES}
    panels = panels or {"": []}
    figure, axes = axes_of(len(panels), share=True)
    for axis, (name, members) in zip(axes, panels.items(), strict=True):
        for curve in references:
            steps = values(curve)
            style = "--" if curve.row["method"] == "full" else ":"
            axis.plot(range(first_step, first_step + len(steps)), steps, style, color="#777777", label=curve.label)
        for number, curve in enumerate(members, start=1):
            steps = values(curve)
            axis.plot(
                range(first_step, first_step + len(steps)),
                steps,
                color=_COLOURS[number % 8],
                label=curve.row["setting"],
            )
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("generation step")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=7)
    axes[0].set_ylabel(ylabel)
    return figure


def _by_series(drawn: Sequence[Curve]) -> dict[str, list[Curve]]:
    found: dict[str, list[Curve]] = {}
    for curve in drawn:
        found.setdefault(curve.series, []).append(curve)
    return found


def legend_outside(figure: "Figure", axes: Sequence["Axes"]) -> None:
    """One legend beside the panels, for all of them."""
    drawn = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(drawn.values()), list(drawn), loc="outside right upper", frameon=False, fontsize=7)


def curve_style(number: int) -> dict[str, Any]:
    """Colour and marker of curve number `number`."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.2,
    }


def axes_of(
    count: int, *, height: float = 3.5, width: float = 4.2, share: bool = False
) -> tuple["Figure", list["Axes"]]:
    """A figure with `count` panels in a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, sharey=share)[0]
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)
