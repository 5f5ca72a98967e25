"""Where settings stand against the full model: speed and loss, each with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.twins import twins_of
from skiplab.reporting.vocabulary import FIGURES

MARGIN = 0.02
"""A setting loses little if the whole interval of its loss is at most this, for figures in [0, 1]; at most this share
of the full model's value for others."""
REFERENCES = ("full", "hf_generate")
"""Not methods under comparison: the reference, and another implementation of it."""


class Interval(NamedTuple):
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float

    def text(self, form: str = "{:.2f}") -> str:
        """Value and ends."""
        value, low, high = (form.format(one if float(f"{one:.9f}") else 0.0) for one in self)
        return f"{value} [{low}, {high}]"


@final
@dataclass(frozen=True)
class Standing:
    """Speed and loss of a setting against the full model.

    Attributes:
        batch: batch size at which it was timed; None counts layers instead.
        speed: ends are the quartiles; None if they are unknown.
        loss: of quality, positive if worse; None if it has no interval.
    """

    setting: Setting
    batch: int | None
    speed: float
    quartiles: tuple[float, float] | None
    loss: Interval | None

    def loses_little(self, margin: float) -> bool:
        """Whether the whole interval of its loss is at most `margin`."""
        return self.loss is not None and self.loss.high <= margin


def quality_of(summary: Sequence[Row]) -> str | None:
    """The figure by which settings are judged: the first of those with differences from the full model; or None."""
    present = {figure.name for figure in FIGURES if any(f"{figure.name}_from_full_ci95" in row for row in summary)}
    return next((figure.name for figure in FIGURES.shown("difference", present)), None)


def standings(rows: Sequence[Row], summary: Sequence[Row], quality: str | None, batch: int | None) -> list[Standing]:
    """The decoders of all methods except the full model, with their speed at a batch size; None counts layers."""
    found = []
    twins = twins_of(summary)
    for row in summary:
        setting = Setting.of(row)
        if setting.method in REFERENCES or setting in twins:
            continue
        timed = [one for one in rows if Setting.of(one) == setting and one.get("batch_size") == batch]
        speeds = row if batch is None else next((one for one in timed if "decode_speedup" in one), {})
        key = "layer_speedup" if batch is None else "decode_speedup"
        if key in speeds:
            found.append(Standing(setting, batch, speeds[key], speeds.get(f"{key}_quartiles"), loss_of(row, quality)))
    return found


def loss_of(row: Row, quality: str | None) -> Interval | None:
    """The loss of a quality figure against the full model, positive if worse."""
    if quality is None or f"{quality}_from_full_ci95" not in row:
        return None
    mean, (low, high) = row[f"{quality}_from_full"], row[f"{quality}_from_full_ci95"]
    return Interval(mean, low, high) if FIGURES[quality].sense == "minimize" else Interval(-mean, -high, -low)


def best(candidates: Sequence[Standing], margin: float) -> Standing | None:
    """The fastest that loses little."""
    return max((one for one in candidates if one.loses_little(margin)), key=lambda one: one.speed, default=None)


def scale_of(summary: Sequence[Row], quality: str | None) -> float:
    """What the margin is a share of."""
    if quality is None or FIGURES[quality].unit == "share":
        return 1.0
    return abs(next((row[quality] for row in summary if row["method"] == "full" and quality in row), 1.0))


def label_of(quality: str) -> str:
    figure = FIGURES[quality]
    return figure.at("plot" if figure.shown_at("plot") else "difference").label
