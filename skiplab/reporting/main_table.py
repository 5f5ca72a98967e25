"""The results at a glance: one line per setting, at most eight columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

from skiplab.reporting.plot_style import Style
from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.standings import quality_of
from skiplab.reporting.tables import cell, difference_cell, slug, without_figures
from skiplab.reporting.twins import twins_of
from skiplab.reporting.vocabulary import FIGURES
from skiplab.utils.figures import Column


class Shown(NamedTuple):
    """A cell: its text, the small print below it, and the number by which it is sorted."""

    text: str = ""
    small: str = ""
    value: float | None = None


@final
@dataclass(frozen=True)
class Line:
    """One setting.

    Attributes:
        anchor: its id on the page.
        note: further words on the setting, such as which it equals.
        error: why it has no figures.
    """

    setting: Setting
    anchor: str
    cells: Sequence[Shown]
    style: Style | None = None
    note: str = ""
    error: str = ""


@final
@dataclass(frozen=True)
class MainTable:
    """Header without the column of settings, and lines."""

    header: Sequence[str]
    lines: Sequence[Line]
    anchors: Mapping[Setting, str] = field(default_factory=dict)


def main_table(rows: Sequence[Row], summary: Sequence[Row], styles: Mapping[Setting, Style]) -> MainTable:
    """The figures by which settings are judged, with failed settings at the end.

    Args:
        styles: of the settings' series.
    """
    failed = without_figures(rows)
    settings = [*map(Setting.of, summary), *failed]
    anchors = anchors_of(settings)
    columns = _columns(rows, summary)
    twins = twins_of(summary)
    lines = [
        Line(
            setting := Setting.of(row),
            anchors[setting],
            [make(row) for _, make in columns],
            styles.get(setting),
            f"the same decoder as {twins[setting]}" if setting in twins else "",
        )
        for row in summary
    ]
    lines += [Line(setting, anchors[setting], [], error=why) for setting, why in failed.items()]
    return MainTable([name for name, _ in columns], lines, anchors)


def anchors_of(settings: Sequence[Setting]) -> dict[Setting, str]:
    """A distinct id for each setting."""
    found: dict[Setting, str] = {}
    for setting in settings:
        name = f"row-{slug(str(setting))}"
        taken = set(found.values())
        number = next(number for number in range(1, len(settings) + 2) if _numbered(name, number) not in taken)
        found[setting] = _numbered(name, number)
    return found


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _columns(rows: Sequence[Row], summary: Sequence[Row]) -> list[tuple[str, "Maker"]]:
    present = {key for row in summary for key in row}
    judged = quality_of(summary)
    console = [figure for figure in FIGURES.shown("console", present) if figure.interval in ("items", "corpus")]
    other = next((figure for figure in console if figure.name != judged), None)
    found: list[tuple[str, Maker]] = []
    if judged is not None:
        column = FIGURES[judged].at("difference")
        found.append((column.label, Own(judged, column)))
        found.append((f"{column.label} minus full model's", FromFull(judged)))
    if other is not None:
        found.append((other.at("console").label, Own(other.name, other.at("console"))))
    if "layer_speedup" in present:
        found.append(("layer speedup", Own("layer_speedup", FIGURES["layer_speedup"].at("quality"))))
    timed = sorted({row["batch_size"] for row in rows if "batch_size" in row and "decode_speedup" in row})
    for batch in dict.fromkeys([timed[0], timed[-1]] if timed else []):
        found.append((f"decode speedup, batch {batch}", Timed(rows, batch)))
    if judged is not None and f"{judged}_difference" in present:
        found.append((f"{FIGURES[judged].at('difference').label} minus rival's", FromRival(judged)))
    return found


@final
@dataclass(frozen=True)
class Own:
    """A summary figure with its interval."""

    name: str
    column: Column

    def __call__(self, row: Row) -> Shown:
        text, small = cell(row, self.name, self.column)
        return Shown(text, small, row.get(self.name))


@final
@dataclass(frozen=True)
class FromFull:
    """A figure less the full model's."""

    name: str

    def __call__(self, row: Row) -> Shown:
        key = f"{self.name}_from_full"
        if key not in row:
            return Shown()
        low, high = row[f"{key}_ci95"]
        return Shown(f"{row[key]:+.3f}", f"[{low:+.3f}, {high:+.3f}]", row[key])


@final
@dataclass(frozen=True)
class Timed:
    """The decode speedup at a batch size, with its quartiles."""

    rows: Sequence[Row]
    batch: int

    def __call__(self, row: Row) -> Shown:
        if not row:
            return Shown()
        own = [one for one in self.rows if Setting.of(one) == Setting.of(row) and one.get("batch_size") == self.batch]
        timed = next((one for one in own if "decode_speedup" in one), {})
        text, small = cell(timed, "decode_speedup", FIGURES["decode_speedup"].at("speed"))
        return Shown(text, small, timed.get("decode_speedup"))


@final
@dataclass(frozen=True)
class FromRival:
    """A figure less the rival's, and the rival."""

    name: str

    def __call__(self, row: Row) -> Shown:
        text, small = difference_cell(row, self.name)
        return Shown(text, f"{small}\nvs {row['against']}" if text else "", row.get(f"{self.name}_difference"))


Maker = Own | FromFull | Timed | FromRival
