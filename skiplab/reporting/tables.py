"""Tables of a comparison's rows: for the console, in Markdown, and for the report."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.vocabulary import FIGURES
from skiplab.reporting.wide_console import wide_console
from skiplab.utils.figures import Column, Place

if TYPE_CHECKING:
    from rich.console import Console

_NOTES = (
    "Small figures are 95% bootstrap intervals over test items and, if there are several, seeds (with few seeds they "
    "understate the variance between seeds; for BLEU they are then the lowest and the highest value). Differences are "
    "paired by seed and item against the setting named, with p from a sign-flip permutation test over items, for "
    "these seeds, adjusted by Holm's method over the differences in the column. "
    "For speeds, small figures are quartiles over rounds. Speeds are those of the first seed, medians over interleaved "
    "rounds of one run. The base is `full 1x`; methods are trained further from it, as the training table shows, and "
    "`full 1x fine-tuned` shows the effect of further training at full depth. A batch's late steps, with few rows "
    "left, count as much as its early ones, so a schedule can save more time than its layers per token suggest: "
    "compare with the layer speedup of the timed steps."
)

_SIGNATURES = MappingProxyType(
    {
        "bleu_signature": "BLEU is sacrebleu's, {}.",
        "rouge_signature": "ROUGE is {}.",
        "e2e_signature": "Figures of E2E are the challenge's ({}).",
    }
)
FEW_ITEMS = 100
"""Figures of a split with fewer items come with a warning."""


class Cell(NamedTuple):
    """A figure and its interval."""

    text: str
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """Formatted cells.

    Attributes:
        errors: by line number, why a setting has no figures.
    """

    title: str
    header: list[str]
    lines: list[list[Cell]] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)

    def print(self, console: "Console") -> None:
        """Print the cells without intervals; in a file or pipe, lines are not wrapped."""
        from rich import box
        from rich.table import Table as RichTable

        shown = RichTable(
            box=box.SIMPLE_HEAD, show_edge=False, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
        )
        for number, name in enumerate(self.header):
            shown.add_column(name.replace(" ", "\n"), justify="left" if number < 2 else "right", no_wrap=number > 1)
        for number, line in enumerate(self.lines):
            shown.add_row(*(cell.text for cell in line), *(["failed"] if number in self.errors else []))
        wide_console(console).print(shown)


def by_setting(rows: Iterable[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """The rows of each method, setting and seed: one per timed batch size."""
    settings: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        settings.setdefault((row["method"], row["setting"], row["seed"]), []).append(row)
    return settings


def tables(rows: Sequence[Row], summary: Sequence[Row]) -> list[Table]:
    """All tables: quality over seeds and against rivals, by seed if there are several, details, training, speed."""
    found = [_over_seeds(summary, rows)]
    if many_seeds(rows):
        found.append(_by_seed(rows))
    if details := columns_of("details", summary):
        found.append(_details(summary, details))
    if _has(summary, "train_passes"):
        found.append(_training(summary))
    if _has(rows, "batch_size"):
        found.append(_speed(rows))
    return found


def notes(rows: Sequence[Row]) -> str:
    """How to read a comparison's tables."""
    found = [_NOTES]
    for key, sentence in _SIGNATURES.items():
        found += [sentence.format(value) for value in sorted({row[key] for row in rows if key in row})]
    few = sorted({count for row in rows if (count := row.get("test_items", FEW_ITEMS)) < FEW_ITEMS})
    found += [few_items("test", count) for count in few]
    return " ".join(found)


def few_items(split: str, count: int) -> str:
    """The warning for a split with fewer items than `FEW_ITEMS`."""
    return f"The {split} split has {count} items, fewer than {FEW_ITEMS}: its figures are rough."


def markdown(laid: Sequence[Table], rows: Sequence[Row]) -> str:
    """Tables in Markdown without intervals, the rows' errors below them."""
    parts = []
    for table in laid:
        cells = [table.header, ["---"] * len(table.header), *([cell.text for cell in line] for line in table.lines)]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
    failed = {(row["method"], row["setting"]): row["error"] for row in rows if "error" in row}
    errors = [f"- {method} {setting} failed: {error}" for (method, setting), error in failed.items()]
    return "\n\n".join([*parts, *(["\n".join(errors)] if errors else [])])


def without_figures(rows: Sequence[Row]) -> dict[Setting, str]:
    """The settings that have no figures, and why."""
    measured = {Setting.of(row) for row in rows if "error" not in row or "bleu" in row}
    return {setting: row["error"] for row in rows if "error" in row and (setting := Setting.of(row)) not in measured}


def slug(text: str) -> str:
    """A text as an id: lower case, letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def throughput_table(rows: Sequence[Row]) -> Table:
    """A line per system, number format and batch size."""
    return flat_table("Throughput", rows, "throughput", ("method", "setting", "dtype", "batch_size"))


def prediction_table(rows: Sequence[Row]) -> Table:
    """A line per shape, setting and batch size."""
    return flat_table("Predicted", rows, "prediction", ("backbone", "setting", "batch_size"))


def profile_table(profiles: Sequence[Row]) -> Table:
    """A line per number format, batch size and path: milliseconds per step, in all and by kind of work."""
    kinds = sorted({kind for one in profiles for kind in one["ms_per_step"]} - {"host"})
    table = Table("Milliseconds per step", ["format", "batch", "path", "step", *kinds, "host"])
    for one in profiles:
        parts = one["ms_per_step"]
        figures = [sum(parts.values()), *(parts.get(kind, 0.0) for kind in (*kinds, "host"))]
        labels = [Cell(one["dtype"]), Cell(str(one["batch_size"])), Cell(one["path"])]
        table.lines.append([*labels, *(Cell(f"{figure:.2f}") for figure in figures)])
    return table


def flat_table(title: str, rows: Sequence[Row], place: Place, labels: Sequence[str]) -> Table:
    shown = columns_of(place, rows)
    names = {"dtype": "format", "batch_size": "batch"}
    table = Table(title, [*(names.get(label, label) for label in labels), *(one.label for one in shown.values())])
    for number, row in enumerate(rows):
        line = [Cell(str(row[label])) for label in labels]
        if "error" in row:
            table.errors[number] = row["error"]
        else:
            line += [cell(row, key, column) for key, column in shown.items()]
        table.lines.append(line)
    return table


def one_line(row: Row) -> str:
    """A finished setting in one line."""
    return ", ".join(f"{column.label} {column.text(row[key])}" for key, column in columns_of("quality", [row]).items())


def columns_of(place: Place, rows: Iterable[Row], suffix: str = "") -> dict[str, Column]:
    """The columns that a table shows of rows, by figure.

    Args:
        suffix: added to the figures' names in the rows.
    """
    keys = {key for row in rows for key in row}
    present = {figure.name for figure in FIGURES if f"{figure.name}{suffix}" in keys}
    return {figure.name: figure.at(place) for figure in FIGURES.shown(place, present)}


def _over_seeds(summary: Sequence[Row], rows: Sequence[Row]) -> Table:
    figures = columns_of("quality", summary)
    compared = columns_of("difference", summary, suffix="_difference")
    against = ["against", *(f"{column.label} difference" for column in compared.values())] if compared else []
    seeds = many_seeds(rows)
    head = ["method", "setting", *(["seeds"] if seeds else []), *(one.label for one in figures.values()), *against]
    table = Table("Quality", head)
    for row in summary:
        line = [Cell(row["method"]), Cell(row["setting"]), *([Cell(str(len(row["seeds"])))] if seeds else [])]
        line += [cell(row, key, column) for key, column in figures.items()]
        line += [Cell(row.get("against", ""))] if compared else []
        table.lines.append(line + [difference_cell(row, key) for key in compared])
    for (method, setting, _), members in by_setting(rows).items():
        if "error" in members[0] and "bleu" not in members[0]:
            table.errors[len(table.lines)] = members[0]["error"]
            table.lines.append([Cell(method), Cell(setting)])
    return table


def _details(summary: Sequence[Row], figures: Mapping[str, Column]) -> Table:
    """A line for each setting that has any of the figures."""
    table = Table("Details", ["method", "setting", *(column.label for column in figures.values())])
    for row in summary:
        if figures.keys() & row.keys():
            cells = [cell(row, key, column) for key, column in figures.items()]
            table.lines.append([Cell(row["method"]), Cell(row["setting"]), *cells])
    return table


def _by_seed(rows: Sequence[Row]) -> Table:
    figures = columns_of("quality", rows)
    table = Table("Quality by seed", [*_head(rows), *(column.label for column in figures.values())])
    for number, (setting, members) in enumerate(by_setting(rows).items()):
        table.lines.append(_label(setting, rows) + [cell(members[0], *one) for one in figures.items()])
        if "error" in members[0]:
            table.errors[number] = members[0]["error"]
    return table


def _training(summary: Sequence[Row]) -> Table:
    """The training cost of each trained setting, mean over seeds."""
    trained = [row for row in summary if "train_passes" in row]
    figures = columns_of("training", trained)
    table = Table("Training", ["method", "setting", *(column.label for column in figures.values())])
    for row in trained:
        table.lines.append(
            [Cell(row["method"]), Cell(row["setting"]), *(cell(row, *figure) for figure in figures.items())]
        )
    return table


def _speed(rows: Sequence[Row]) -> Table:
    batches = sorted({row["batch_size"] for row in rows if "batch_size" in row})
    columns = [(key, column, batch) for key, column in columns_of("speed", rows).items() for batch in batches]
    table = Table("Speed", [*_head(rows), *(f"{column.label}, batch {batch}" for _, column, batch in columns)])
    timed = {setting: members for setting, members in by_setting(rows).items() if "batch_size" in members[0]}
    for number, (setting, members) in enumerate(timed.items()):
        by_batch = {row["batch_size"]: row for row in members}
        cells = [cell(by_batch.get(batch, {}), key, column) for key, column, batch in columns]
        table.lines.append(_label(setting, rows) + cells)
        if "error" in members[0]:
            table.errors[number] = members[0]["error"]
    return table


def _head(rows: Sequence[Row]) -> list[str]:
    return ["method", "setting", *(["seed"] if many_seeds(rows) else [])]


def _label(setting: tuple[str, str, int], rows: Sequence[Row]) -> list[Cell]:
    method, name, seed = setting
    return [Cell(method), Cell(name), *([Cell(str(seed))] if many_seeds(rows) else [])]


def many_seeds(rows: Sequence[Row]) -> bool:
    """Whether the rows are of several seeds."""
    return len({row["seed"] for row in rows}) > 1


def _has(rows: Iterable[Mapping[str, object]], key: str) -> bool:
    return any(key in row for row in rows)


def cell(row: Row, key: str, column: Column) -> Cell:
    """A figure of a row and its interval."""
    if key not in row:
        return Cell("")
    bounds = next((row[name] for end in ("ci95", "seeds", "quartiles") if (name := f"{key}_{end}") in row), None)
    spread = "" if bounds is None else f"[{', '.join(column.text(one) for one in bounds)}]"
    return Cell(column.text(row[key]), spread)


def difference_cell(row: Row, key: str) -> Cell:
    """A figure's difference from the rival, its interval and p-value."""
    if f"{key}_difference" not in row:
        return Cell("")
    low, high = row[f"{key}_difference_ci95"]
    p_value = f"{row[f'{key}_p_value']:.3f}" if row[f"{key}_p_value"] >= 0.001 else "<0.001"
    return Cell(f"{row[f'{key}_difference']:+.3f}", f"[{low:+.3f}, {high:+.3f}] p={p_value}")
