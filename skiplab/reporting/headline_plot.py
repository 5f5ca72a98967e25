"""The one picture of a comparison: quality against speed, with the Pareto front and the full model's interval."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skiplab.reporting.curves import Curve, batches_of, by_series, front
from skiplab.reporting.plot_labels import Labelled, label_points, without_shared_ends
from skiplab.reporting.plot_style import BAND, MUTED, Plot, Style, axes_of, legend_outside, tipped
from skiplab.reporting.standings import REFERENCES, label_of
from skiplab.reporting.vocabulary import FIGURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NARROW = 4.2
"""Width in inches of the figure for narrow windows, in which the panels stand below one another."""


def headline_plot(drawn: Sequence[Curve], quality: str, styles: Mapping[str, Style]) -> Plot | None:
    """Quality by measured decode speedup at the smallest and largest batch size, or by layer speedup if none was timed.

    Args:
        drawn: each decoder once. Calibrated ones are left out: they are settings between the others of their method.
        quality: the figure shown.
        styles: by series.

    Returns:
        The plot; None if fewer than two settings can be shown.
    """
    drawn = [curve for curve in drawn if "calibrated" not in curve.row]
    batches = batches_of(drawn)
    ends: list[int | None] = list(dict.fromkeys([batches[0], batches[-1]])) if batches else [None]
    if not any(len(_points(drawn, quality, batch)) > 1 for batch in ends):
        return None
    label = label_of(quality)
    speed = "measured decode speedup" if batches else "layer speedup"
    width = 12.0 / len(ends) if len(ends) > 1 else 9.0
    return Plot(
        f"{label[0].upper()}{label[1:]} by {speed}",
        "Right and up is better. The grey band is the full model's 95% interval; the line joins the settings that no "
        "other beats in both; bars are intervals. Rest the pointer on a point for its name and figures.",
        _figure(drawn, quality, styles, ends, axes_of(len(ends), height=5.0, width=width, share=True)),
        _figure(drawn, quality, styles, ends, axes_of(len(ends), height=4.2, width=_NARROW, share=True, in_line=1)),
    )


def _figure(
    drawn: Sequence[Curve],
    quality: str,
    styles: Mapping[str, Style],
    batches: Sequence[int | None],
    made: "tuple[Figure, list[Axes]]",
) -> "Figure":
    figure, axes = made
    for axis, batch in zip(axes, batches, strict=True):
        _panel(axis, drawn, quality, batch, styles)
        if axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axis.set_ylabel(label_of(quality))
    legend_outside(figure, axes)
    figure.draw_without_rendering()
    for axis, batch in zip(axes, batches, strict=True):
        label_points(axis, _to_label(drawn, quality, batch), _path(drawn, quality, batch))
    return figure


def _points(drawn: Sequence[Curve], quality: str, batch: int | None) -> list[tuple[Curve, float, float]]:
    """Curves with speed and quality."""
    found = []
    for curve in drawn:
        speed, value = curve.speed(batch), curve.quality(quality)
        if speed is not None and value is not None:
            found.append((curve, speed, value[0]))
    return found


def _panel(axis: "Axes", drawn: Sequence[Curve], quality: str, batch: int | None, styles: Mapping[str, Style]) -> None:
    times = "layer speedup" if batch is None else f"decode speedup at batch {batch}"
    full = next((curve for curve in drawn if curve.row["method"] == "full"), None)
    if full is not None and (interval := full.quality(quality)) is not None:
        axis.axhspan(*interval[1:], color=BAND, linewidth=0, zorder=0)
    axis.plot(*zip(*_path(drawn, quality, batch), strict=True), color=MUTED, linewidth=1, zorder=1)
    for series, members in by_series(drawn).items():
        points = sorted(_points(members, quality, batch), key=lambda point: point[1])
        style: dict[str, Any] = {**styles[series].line, "linestyle": ""}
        for number, (curve, speed, value) in enumerate(points):
            _, low, high = curve.quality(quality) or (value, value, value)
            axis.plot([speed, speed], [low, high], color=styles[series].colour, linewidth=0.9, alpha=0.6)
            point = axis.plot([speed], [value], label=None if number else series, **style)
            tipped(point, tip(curve, quality, f"{times} {speed:.2f}x"))
    axis.set_xlabel("layer speedup" if batch is None else "decode speedup against the full model")
    axis.set_title("" if batch is None else f"batch {batch}")
    axis.margins(x=0.15, y=0.14)
    axis.axvline(1, color=MUTED, linewidth=0.8, linestyle=":", zorder=0)


def tip(curve: Curve, quality: str, speed: str) -> str:
    """A point's name and figures, for where the pointer rests on it.

    Args:
        speed: its place on the other axis, in words.
    """
    value, low, high = curve.quality(quality) or (0.0, 0.0, 0.0)
    form = FIGURES[quality].form.format
    interval = f"{form(value)} [{form(low)}, {form(high)}]"
    return f"{curve.label}: {label_of(quality)} {interval}, {speed}"


def _front(drawn: Sequence[Curve], quality: str, batch: int | None) -> list[tuple[Curve, float, float]]:
    points = _points(drawn, quality, batch)
    minimize = FIGURES[quality].sense == "minimize"
    return [points[place] for place in front([(speed, value) for _, speed, value in points], minimize=minimize)]


def _path(drawn: Sequence[Curve], quality: str, batch: int | None) -> list[tuple[float, float]]:
    """The points of the front from the slowest to the fastest."""
    return sorted((speed, value) for _, speed, value in _front(drawn, quality, batch))


def _to_label(drawn: Sequence[Curve], quality: str, batch: int | None) -> list[Labelled]:
    """Points with labels, the most important first: the full model, the front, then the others by quality."""
    best = [curve.label for curve, *_ in _front(drawn, quality, batch)]

    def order(point: tuple[Curve, float, float]) -> tuple[bool, bool, float]:
        worse = point[2] if FIGURES[quality].sense == "minimize" else -point[2]
        return point[0].row["method"] not in REFERENCES, point[0].label not in best, worse

    found = []
    short = without_shared_ends({curve.label: curve.row["method"] for curve in drawn})
    for curve, speed, value in sorted(_points(drawn, quality, batch), key=order):
        whole = curve.label in best or curve.row["method"] in REFERENCES
        _, low, high = curve.quality(quality) or (value, value, value)
        found.append(Labelled(short[curve.label], speed, value, low, high, whole))
    return found
