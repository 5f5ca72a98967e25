"""The comparison's plots, as matplotlib figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = ["#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]
_MARKERS = "osD^vPX*"
# Drawn in every panel of the plots by step.
_REFERENCES = ("full", "hf_generate")
_QUALITY = {"bleu": "BLEU", "rouge_l": "ROUGE-L", "slot_accuracy": "slot accuracy", "bertscore_f1": "BERTScore F1"}


@dataclass(frozen=True)
class Curve:
    """One setting of one series.

    Attributes:
        speeds: its timing rows by batch size.
        step_ms: milliseconds by decode step, by batch size.
    """

    series: str
    label: str
    row: Mapping[str, Any]
    depth_by_step: Sequence[float]
    speeds: Mapping[int, Mapping[str, Any]]
    step_ms: Mapping[int, Sequence[float]]


def curves(records: Mapping[str, Mapping[str, Any]], timing: Mapping[str, Any]) -> list[Curve]:
    """What is drawn, from a comparison's finished records and their timing parts, both by setting."""
    found = []
    for key, record in records.items():
        parts = {part["row"]["batch_size"]: part for part in timing.get(key, [])}
        row = record["row"]
        found.append(
            Curve(
                series=record["series"],
                label=f"{row['method']} {row['setting']}",
                row=row,
                depth_by_step=record["depth_by_step"],
                speeds={batch: part["row"] for batch, part in parts.items()},
                step_ms={batch: part["step_ms"] for batch, part in parts.items()},
            )
        )
    return found


def figures(drawn: Sequence[Curve]) -> dict[str, "Figure"]:
    """All plots by name."""
    qualities = [name for name in _QUALITY if any(name in curve.row for curve in drawn)]
    batches = sorted({batch for curve in drawn for batch in curve.speeds})
    found = {"quality_by_layer_speedup": _quality_figure(drawn, qualities)}
    for batch in batches:
        found[f"quality_by_decode_speedup_batch{batch}"] = _quality_figure(drawn, qualities, batch)
    found["depth_by_step"] = _depth_figure(drawn)
    if batches:
        found["ms_by_step"] = _step_time_figure(drawn, batches)
    return found


def _quality_figure(drawn: Sequence[Curve], qualities: Sequence[str], batch: int | None = None) -> "Figure":
    """Quality against layer speedup, or against the decode speedup measured at a batch size."""
    figure, axes = _axes(len(qualities))
    for axis, quality in zip(axes, qualities, strict=True):
        for number, (series, members) in enumerate(_by_series(drawn).items()):
            points = []
            for curve in members:
                speeds = curve.row if batch is None else curve.speeds.get(batch, {})
                speed = speeds.get("layer_speedup" if batch is None else "decode_speedup")
                if speed is not None and quality in curve.row:
                    value = curve.row[quality]
                    low, high = curve.row.get(f"{quality}_ci95", (value, value))
                    points.append((speed, value, max(0.0, value - low), max(0.0, high - value)))
            if not points:
                continue
            x, y, below, above = zip(*sorted(points), strict=True)
            axis.errorbar(
                x, y, yerr=(below, above), label=series, color=_COLOURS[number % 8], marker=_MARKERS[number % 8],
                markersize=5, capsize=2, linewidth=1.2,
            )  # fmt: skip
        measured = "layer speedup (layers over mean depth)"
        axis.set(xlabel=measured if batch is None else f"measured decode speedup, batch {batch}")
        axis.set_ylabel(_QUALITY[quality])
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def _depth_figure(drawn: Sequence[Curve]) -> "Figure":
    """Mean depth of the outputs that reach each step, one panel per series."""
    return _by_step(drawn, lambda curve: curve.depth_by_step, first_step=0, ylabel="mean layers run")


def _step_time_figure(drawn: Sequence[Curve], batches: Sequence[int]) -> "Figure":
    largest = max(batches)
    return _by_step(
        drawn, lambda curve: curve.step_ms.get(largest, ()), first_step=1, ylabel=f"ms per step, batch {largest}"
    )


def _by_step(drawn: Sequence[Curve], values: Any, *, first_step: int, ylabel: str) -> "Figure":
    series = _by_series(drawn)
    references = [members[0] for members in series.values() if members[0].row["method"] in _REFERENCES]
    panels = {name: members for name, members in series.items() if members[0].row["method"] not in _REFERENCES}
    panels = panels or {"": []}
    figure, axes = _axes(len(panels), share=True)
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
        axis.set(title=name, xlabel="generation step")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=7)
    axes[0].set_ylabel(ylabel)
    return figure


def _by_series(drawn: Sequence[Curve]) -> dict[str, list[Curve]]:
    found: dict[str, list[Curve]] = {}
    for curve in drawn:
        found.setdefault(curve.series, []).append(curve)
    return found


def _axes(count: int, share: bool = False) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count, 3.5), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, sharey=share)[0]
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)
