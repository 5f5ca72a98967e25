"""The results on a terminal: one line per setting, more columns where it is wider."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skiplab.reporting.main_table import Shown, main_table
from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.vocabulary import FIGURES

if TYPE_CHECKING:
    from rich.table import Table

WIDE, WIDEST = 120, 200
"""Widths from which passes and the difference from the rival are shown, and from which intervals are."""


def console_table(rows: Sequence[Row], summary: Sequence[Row], width: int) -> "Table":
    """The main table for a terminal.

    Args:
        width: of the terminal, in characters; below `WIDE` it fits 80.
    """
    from rich import box
    from rich.table import Table

    table = main_table(rows, summary, {})
    shown = Table(box=box.SIMPLE, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("method", overflow="fold")
    places = [place for place, name in enumerate(table.header) if width >= WIDE or not _is_of_rival(name)]
    passes = _passes(summary) if width >= WIDE else {}
    for place in places:
        first, _, rest = table.header[place].replace("less full model's", "less\nfull's").partition(" ")
        shown.add_column(f"{first}\n{rest}", justify="right", no_wrap=True)
    if passes:
        shown.add_column("training\npasses", justify="right", no_wrap=True)
    for line in table.lines:
        cells = ["failed"] if line.error else [_text(line.cells[place], width) for place in places]
        trained = [passes.get(line.setting, "")] if passes and not line.error else []
        shown.add_row(str(line.setting), *cells, *trained)
    return shown


def _text(cell: Shown, width: int) -> str:
    if width >= WIDEST or "vs " in cell.small:
        small = cell.small.replace("\n", " ") if width >= WIDEST else cell.small.rpartition("\n")[2]
        return f"{cell.text} {small}".rstrip()
    return cell.text


def _is_of_rival(header: str) -> bool:
    return header.endswith("less rival's")


def _passes(summary: Sequence[Row]) -> dict[Setting, str]:
    column = FIGURES["train_passes"].at("console")
    return {Setting.of(row): column.text(row["train_passes"]) for row in summary if "train_passes" in row}
