"""The data of a comparison's plots: one curve per setting."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from skiplab.reporting.plot_style import Style, styles
from skiplab.reporting.record import Record, Setting
from skiplab.reporting.results import Row


@final
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

    @property
    def setting(self) -> Setting:
        return Setting.of(self.row)

    def speed(self, batch: int | None) -> float | None:
        """Decode speedup at a batch size, or layer speedup for None; None if it was not measured."""
        return self.row.get("layer_speedup") if batch is None else self.speeds.get(batch, {}).get("decode_speedup")

    def quality(self, name: str) -> tuple[float, float, float] | None:
        """Value and interval of a figure, the value alone thrice if it has no interval; None if it has no value."""
        if name not in self.row:
            return None
        value = self.row[name]
        low, high = self.row.get(f"{name}_ci95", self.row.get(f"{name}_seeds", (value, value)))
        return value, min(low, value), max(high, value)


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


def batches_of(drawn: Sequence[Curve]) -> list[int]:
    """The timed batch sizes."""
    return sorted({batch for curve in drawn for batch in curve.speeds})


def by_series(drawn: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The curves of each series."""
    found: dict[str, list[Curve]] = {}
    for curve in drawn:
        found.setdefault(curve.series, []).append(curve)
    return found


def series_styles(drawn: Sequence[Curve]) -> dict[str, Style]:
    """The style of each series, the same in every plot and table of a comparison."""
    reference = next((curve.series for curve in drawn if curve.row["method"] == "full"), None)
    # Calibrated settings last: there are fewer colours than series.
    return styles((curve.series for curve in sorted(drawn, key=lambda one: "calibrated" in one.row)), reference)


def front(points: Sequence[tuple[float, float]], *, minimize: bool = False) -> Iterator[int]:
    """Places of the points (speed, quality) than which no other is both as fast and as good, and better in one.

    Args:
        minimize: whether lower quality values are better.
    """
    sign = -1 if minimize else 1
    for place, (speed, quality) in enumerate(points):
        better = (
            (other_speed, sign * other) != (speed, sign * quality)
            and other_speed >= speed
            and sign * other >= sign * quality
            for other_speed, other in points
        )
        if not any(better):
            yield place
