"""A comparison's plots beside the headline's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from skiplab.reporting.curves import Curve, batches_of, by_series, series_styles
from skiplab.reporting.headline_plot import tip
from skiplab.reporting.plot_style import (
    COLOURS,
    INK,
    MUTED,
    Plot,
    Style,
    axes_of,
    dress,
    legend_below,
    legend_height,
    legend_outside,
    tipped,
)
from skiplab.reporting.plot_style import styles as styles_of
from skiplab.reporting.standings import REFERENCES
from skiplab.reporting.vocabulary import FIGURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Of the settings of one series.
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))


def plots(drawn: Sequence[Curve]) -> dict[str, Plot]:
    """All plots by name."""
    styles = series_styles(drawn)
    qualities = [figure.name for figure in FIGURES.shown("plot", {key for curve in drawn for key in curve.row})]
    batches = batches_of(drawn)
    prompted = any("prefill_layer_speedup" in curve.row for curve in drawn)
    in_layers = ["layer_speedup", *(["prefill_layer_speedup"] if prompted else [])]
    measured = ["decode_speedup", *(["prefill_speedup", "end_to_end_speedup"] if prompted else [])]
    found = {f"quality_by_{one}": _quality_plot(drawn, qualities, styles, _Speed(one)) for one in in_layers}
    if any("against" in curve.row for curve in drawn):
        found["difference_from_rival"] = _difference_plot(drawn, styles)
    for batch in batches if len(batches) <= 3 else ():
        found |= {
            f"quality_by_{one}_batch{batch}": _quality_plot(drawn, qualities, styles, _Speed(one, batch))
            for one in measured
        }
    stepwise = [curve for curve in drawn if not _is_speculative(curve)]
    without = "" if len(stepwise) == len(drawn) else " Settings whose passes yield several tokens are left out."
    found["depth_by_step"] = Plot(
        "Layers by generation step",
        "Mean over the outputs that reach the step; the full model in grey. A panel per method, a line per setting."
        + without,
        _by_step(stepwise, lambda curve: curve.depth_by_step, styles, first_step=0, ylabel="mean layers run"),
    )
    if batches:
        largest = batches[-1]
        found["ms_by_step"] = Plot(
            f"Milliseconds by generation step, batch {largest}",
            "The time of a step follows its layers where the device is busy with them, and not with other work."
            + without,
            _by_step(
                stepwise, lambda curve: curve.step_ms.get(largest, ()), styles, first_step=1, ylabel="ms per step"
            ),
        )
    if len(batches) > 3:
        found["cost_by_batch"] = Plot(
            "Layers, time and speedup by batch size",
            "A step runs as deep as its deepest row, so a larger batch costs a row-wise method some of its speedup.",
            _batch_figure(drawn),
        )
    return found


def _is_speculative(curve: Curve) -> bool:
    """Whether the setting was timed with passes that yield several tokens: then no step has a time of its own."""
    return any("tokens_per_verification" in timed for timed in curve.speeds.values())


@dataclass(frozen=True)
class _Speed:
    """A speedup on the horizontal axis: a figure of settings, or of their timing at a batch size."""

    figure: str
    batch: int | None = None

    def of(self, curve: Curve) -> float | None:
        row = curve.row if self.batch is None else curve.speeds.get(self.batch, {})
        # A plan that runs whole prompts has no figure of their layers.
        return row.get(self.figure, 1.0 if self.figure == "prefill_layer_speedup" else None)

    @property
    def label(self) -> str:
        name = FIGURES[self.figure].label or self.figure.replace("_", " ")
        return name if self.batch is None else f"{name} at batch {self.batch}"


def _quality_plot(drawn: Sequence[Curve], qualities: Sequence[str], styles: Mapping[str, Style], speed: _Speed) -> Plot:
    """Quality by a speedup."""
    figure, axes = axes_of(max(1, len(qualities)))
    for axis, quality in zip(axes, qualities, strict=False):
        for series, members in by_series(drawn).items():
            _series(axis, series, members, quality, speed, styles[series])
        axis.set_xlabel(speed.label)
        axis.set_ylabel(FIGURES[quality].at("plot").label)
    legend_outside(figure, axes)
    counted = "Layers over mean depth" if speed.batch is None else "Measured against the full model in the same run"
    return Plot(f"Every quality figure by {speed.label}", f"{counted}; bars are 95% intervals.", figure)


def _series(axis: "Axes", series: str, members: Sequence[Curve], quality: str, speed: _Speed, style: Style) -> None:
    points = []
    for curve in members:
        reached, value = speed.of(curve), curve.quality(quality)
        if reached is not None and value is not None:
            points.append((reached, *value, tip(curve, quality, f"{speed.label} {reached:.2f}x")))
    if not points:
        return
    points.sort()
    line = {**style.line, "marker": ""}
    axis.plot([point[0] for point in points], [point[1] for point in points], **line)
    for number, (reached, value, low, high, text) in enumerate(points):
        axis.plot([reached, reached], [low, high], color=style.colour, linewidth=0.9)
        label = None if number else series
        tipped(axis.plot([reached], [value], label=label, **{**style.line, "linestyle": ""}), text)


def _difference_plot(drawn: Sequence[Curve], styles: Mapping[str, Style]) -> Plot:
    """The difference between each setting and its rival, with the interval, one line per setting."""
    compared = [curve for curve in drawn if "against" in curve.row]
    rows = [curve.row for curve in compared]
    present = {figure.name for figure in FIGURES if any(f"{figure.name}_difference" in row for row in rows)}
    names = [figure.name for figure in FIGURES.shown("plot", present)]
    figure, axes = axes_of(max(1, len(names)), height=1.2 + 0.22 * len(compared), share=True)
    for axis, name in zip(axes, names, strict=False):
        for line, curve in enumerate(reversed(compared)):
            if f"{name}_difference" not in curve.row:
                continue
            middle = curve.row[f"{name}_difference"]
            low, high = curve.row[f"{name}_difference_ci95"]
            style = styles[curve.series]
            axis.plot([low, high], [line, line], color=style.colour, linewidth=1.2)
            point = axis.plot([middle], [line], **{**style.line, "linestyle": ""})
            tipped(point, f"{curve.label} less {curve.row['against']}: {middle:+.3f} [{low:+.3f}, {high:+.3f}]")
        axis.axvline(0, color=MUTED, linewidth=1)
        axis.set_xlabel(f"{FIGURES[name].at('plot').label}, difference")
    labels = [f"{curve.label}  vs  {curve.row['against']}" for curve in reversed(compared)]
    axes[0].set_yticks(range(len(labels)), labels, fontsize=7.5)
    return Plot(
        "Difference from the rival at the same speedup in layers",
        "Paired by seed and item; an interval that does not touch the line at 0 is a measurable difference.",
        figure,
    )


def _batch_figure(drawn: Sequence[Curve]) -> "Figure":
    """Layers per step, time per token and speedup, by batch size."""
    figure, axes = axes_of(3)
    timed = [curve for curve in drawn if curve.speeds]
    # A line per setting, not per series: their colours are of this plot alone.
    styles = styles_of((curve.label for curve in timed), "full 1x")
    wanted = ("layers per step (deepest row)", "ms per token", "decode speedup")
    for curve in timed:
        batches = sorted(curve.speeds)
        values = (
            [curve.speeds[batch].get("layers_per_step") for batch in batches],
            [1e3 / curve.speeds[batch]["decode_tokens_per_s"] for batch in batches],
            [curve.speeds[batch].get("decode_speedup") for batch in batches],
        )
        for axis, line, name in zip(axes, values, wanted, strict=True):
            points = [(batch, value) for batch, value in zip(batches, line, strict=True) if value is not None]
            if points:
                tipped(
                    axis.plot(*zip(*points, strict=True), label=curve.label, **styles[curve.label].line), curve.label
                )
            axis.set(xlabel="batch size", ylabel=name, xscale="log")
            axis.set_xticks(batches, [str(batch) for batch in batches])
            axis.minorticks_off()
    axes[0].set_ylim(bottom=0)
    axes[1].set_yscale("log")
    axes[2].set_ylim(bottom=0)
    legend_outside(figure, axes)
    return figure


def layer_plot(layers: Mapping[str, Sequence[Mapping[str, float]]]) -> Plot:
    """Where a decode step's time goes, one panel per setting; `layers` holds `layer_times.layer_times` of each."""
    kinds = {
        "layer_ms": "layer",
        "kv_ms": "deferred keys and values",
        "head_ms": "head, for confidence and token",
        "other_ms": "everything else",
    }
    figure, axes = axes_of(len(layers), height=2.4, share=True)
    for axis, (label, measured) in zip(axes, layers.items(), strict=True):
        numbers = range(1, len(measured) + 1)
        below = [0.0] * len(measured)
        for colour, (key, name) in zip(COLOURS, kinds.items(), strict=False):
            heights = [layer.get(key, 0.0) for layer in measured]
            axis.bar(numbers, heights, bottom=below, color=colour, label=name)
            below = [a + b for a, b in zip(below, heights, strict=True)]
        rows = axis.twinx()
        rows.plot(numbers[:-1], [layer["rows"] for layer in measured[:-1]], ".-", color=INK, linewidth=1)
        dress(rows)
        rows.grid(visible=False)
        rows.set_ylim(bottom=0)
        rows.spines["right"].set_visible(True)
        rows.set_ylabel("rows")
        axis.set_title(f"{label}: {sum(below):.2f} ms")
        axis.set_xlabel("layer, and the rest")
        axis.set_ylabel("ms per step")
    legend_outside(figure, axes)
    sentence = "Measured layer by layer in a separate pass; dots are the rows that run a layer, by the right axis."
    return Plot("Where a step's time goes", sentence, figure)


def _by_step(
    drawn: Sequence[Curve],
    values: Callable[[Curve], Sequence[float]],
    styles: Mapping[str, Style],
    *,
    first_step: int,
    ylabel: str,
) -> "Figure":
    """A panel per series in its colour, a dash pattern per setting, and the references in grey."""
    panels = {name: members for name, members in by_series(drawn).items() if members[0].row["method"] not in REFERENCES}
    references = {curve.series: curve for curve in reversed(drawn) if curve.row["method"] in REFERENCES}
    names = [[str(one.row["setting"]) for one in members] for members in panels.values()]
    height = 2.6 + max(map(legend_height, names), default=0.0)
    figure, axes = axes_of(max(1, len(panels)), height=height, share=True)

    def line(axis: "Axes", curve: Curve, **style: Any) -> "list[Line2D]":
        steps = values(curve)
        drawn_lines = axis.plot(range(first_step, first_step + len(steps)), steps, linewidth=1.2, **style)
        tipped(drawn_lines, curve.label)
        return drawn_lines

    for axis, (name, members) in zip(axes, (panels or {"": []}).items(), strict=True):
        for curve in reversed(references.values()):
            line(axis, curve, color=MUTED, linestyle="--" if curve.row["method"] == "full" else ":", label=curve.label)
        lines = [
            *(line(axis, curve, color=styles[name].colour, linestyle=dash)
              for curve, dash in zip(members, cycle(_DASHES), strict=False))
        ]  # fmt: skip
        axis.set(title=name, xlabel="generation step", ylabel=ylabel)
        legend_below(
            axis, [one for drawn_lines in lines for one in drawn_lines], [str(one.row["setting"]) for one in members]
        )
    # Only now, because a limit keeps the shared axis from growing with later panels.
    axes[0].set_ylim(bottom=0)
    legend_outside(figure, axes)
    return figure
