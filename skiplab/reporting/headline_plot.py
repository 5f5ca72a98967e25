"""The one picture of a comparison: quality against speed, with the Pareto front and the full model's interval."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skiplab.reporting.curves import Curve, batches_of, by_series, front
from skiplab.reporting.plot_style import BAND, INK, MUTED, Plot, Style, axes_of, legend_outside, tipped
from skiplab.reporting.standings import REFERENCES, label_of
from skiplab.reporting.vocabulary import FIGURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Offsets of a label from its point, in points, the best first.
_OFFSETS = ((6, 5), (6, -11), (-6, 5), (-6, -11), (6, 15), (6, -21), (-6, 15), (-6, -21), (14, -3), (-14, -3))


def headline_plot(drawn: Sequence[Curve], quality: str, styles: Mapping[str, Style]) -> Plot | None:
    """Quality by measured decode speedup at the smallest and largest batch size, or by layer speedup if none was timed.

    Args:
        quality: the figure shown.
        styles: by series.

    Returns:
        The plot; None if fewer than two settings can be shown.
    """
    batches = batches_of(drawn)
    ends: list[int | None] = list(dict.fromkeys([batches[0], batches[-1]])) if batches else [None]
    if not any(len(_points(drawn, quality, batch)) > 1 for batch in ends):
        return None
    figure, axes = axes_of(len(ends), height=4.6, width=12.0 / len(ends) if len(ends) > 1 else 9.0, share=True)
    for axis, batch in zip(axes, ends, strict=True):
        _panel(axis, drawn, quality, batch, styles)
    label = label_of(quality)
    axes[0].set_ylabel(label)
    legend_outside(figure, axes)
    figure.draw_without_rendering()
    for axis, batch in zip(axes, ends, strict=True):
        _label_points(axis, _labelled(drawn, quality, batch))
    speed = "measured decode speedup" if batches else "layer speedup"
    return Plot(
        f"{label[0].upper()}{label[1:]} by {speed}",
        "Right and up is better. The grey band is the full model's 95% interval; the line joins the settings that no "
        "other beats in both; bars are intervals. Rest the pointer on a point for its figures.",
        figure,
    )


def _points(drawn: Sequence[Curve], quality: str, batch: int | None) -> list[tuple[Curve, float, float]]:
    """Curves with speed and quality."""
    found = []
    for curve in drawn:
        speed, value = curve.speed(batch), curve.quality(quality)
        if speed is not None and value is not None:
            found.append((curve, speed, value[0]))
    return found


def _panel(axis: "Axes", drawn: Sequence[Curve], quality: str, batch: int | None, styles: Mapping[str, Style]) -> None:
    full = next((curve for curve in drawn if curve.row["method"] == "full"), None)
    if full is not None and (interval := full.quality(quality)) is not None:
        axis.axhspan(*interval[1:], color=BAND, linewidth=0, zorder=0)
    best = _front(drawn, quality, batch)
    axis.plot(
        *zip(*sorted((speed, value) for _, speed, value in best), strict=True), color=MUTED, linewidth=1, zorder=1
    )
    for series, members in by_series(drawn).items():
        points = sorted(_points(members, quality, batch), key=lambda point: point[1])
        style: dict[str, Any] = {**styles[series].line, "linestyle": ""}
        for number, (curve, speed, value) in enumerate(points):
            _, low, high = curve.quality(quality) or (value, value, value)
            axis.plot([speed, speed], [low, high], color=styles[series].colour, linewidth=0.9, alpha=0.6)
            point = axis.plot([speed], [value], label=None if number else series, **style)
            tipped(point, tip(curve, quality, batch))
    axis.set_xlabel("layer speedup" if batch is None else "decode speedup against the full model")
    axis.set_title("" if batch is None else f"batch {batch}")
    axis.margins(x=0.12, y=0.1)
    axis.axvline(1, color=MUTED, linewidth=0.8, linestyle=":", zorder=0)


def tip(curve: Curve, quality: str, batch: int | None) -> str:
    """A point's name and figures, for where the pointer rests on it."""
    value, low, high = curve.quality(quality) or (0.0, 0.0, 0.0)
    form = FIGURES[quality].form.format
    speed = curve.speed(batch)
    times = "layer speedup" if batch is None else f"decode speedup at batch {batch}"
    interval = f"{form(value)} [{form(low)}, {form(high)}]"
    return f"{curve.label}: {label_of(quality)} {interval}, {times} {speed:.2f}x"


def _front(drawn: Sequence[Curve], quality: str, batch: int | None) -> list[tuple[Curve, float, float]]:
    points = _points(drawn, quality, batch)
    minimize = FIGURES[quality].sense == "minimize"
    return [points[place] for place in front([(speed, value) for _, speed, value in points], minimize=minimize)]


def _labelled(drawn: Sequence[Curve], quality: str, batch: int | None) -> list[tuple[str, float, float]]:
    """Points that get a label, the most important first: full model, front, then the others."""
    points = _points(drawn, quality, batch)
    best = [curve.label for curve, *_ in _front(drawn, quality, batch)]
    order = sorted(
        points, key=lambda point: (point[0].row["method"] not in REFERENCES, point[0].label not in best, -point[1])
    )
    return [(curve.label, speed, value) for curve, speed, value in order]


def _label_points(axis: "Axes", points: Sequence[tuple[str, float, float]]) -> None:
    """Write each label where it covers no point and no other label; leave out those for which there is no room."""
    taken: list[Bbox] = [_square(axis, speed, value) for _, speed, value in points]
    inside = axis.get_window_extent()
    for label, speed, value in points:
        for right, up in _OFFSETS:
            text: Annotation = axis.annotate(
                label, (speed, value), (right, up), textcoords="offset points", fontsize=7.5, color=INK,
                ha="left" if right > 0 else "right",
            )  # fmt: skip
            box = text.get_window_extent()
            within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if within and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _square(axis: "Axes", speed: float, value: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    x, y = axis.transData.transform((speed, value))
    return Bbox([[x - 4, y - 4], [x + 4, y + 4]])
