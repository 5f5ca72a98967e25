"""The results on a terminal: one line per setting, more columns where it is wider."""

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from skiplab.reporting.main_table import Shown, main_table
from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.vocabulary import FIGURES

if TYPE_CHECKING:
    from rich.table import Table

_HEADER_WIDTH = 9
# Room for the first column's words: wider names wrap between them.
_NAME_WIDTH = 20
WIDE, WIDEST = 120, 200
"""Widths from which passes and the difference from the rival are shown, and from which intervals are."""


def console_table(rows: Sequence[Row], summary: Sequence[Row], width: int) -> "Table":
    """The main table for a terminal.

    Args:
        width: of the terminal, in characters; below `WIDE` it fits 80.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = main_table(rows, summary, {})
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("method", overflow="fold", min_width=_NAME_WIDTH)
    places = [place for place, name in enumerate(table.header) if width >= WIDE or not _is_of_rival(name)]
    for place in places:
        header = wrap(table.header[place].replace("full model's", "full's"), _HEADER_WIDTH, break_long_words=False)
        shown.add_column("\n".join(header), justify="right", no_wrap=True)
    further = _further(summary) if width >= WIDE else {}
    for name in further:
        if name == "rival":
            shown.add_column(name, overflow="fold", min_width=_HEADER_WIDTH)
        else:
            shown.add_column(name, no_wrap=True, justify="right")
    for line in table.lines:
        cells = ["failed"] if line.error else [_text(line.cells[place], width) for place in places]
        more = [] if line.error else [of_setting.get(line.setting, "") for of_setting in further.values()]
        shown.add_row(*map(Text, (str(line.setting), *cells, *more)))
    return shown


def _text(cell: Shown, width: int) -> str:
    # Without the unit of speeds, which the value has.
    small = cell.small.partition("\n")[0].replace("x,", ",").replace("x]", "]")
    return f"{cell.text} {small}".rstrip() if width >= WIDEST else cell.text


def _is_of_rival(header: str) -> bool:
    return header.endswith("minus rival's")


def _further(summary: Sequence[Row]) -> dict[str, dict[Setting, str]]:
    """Columns of wide terminals, by name: cells by setting."""
    column = FIGURES["train_passes"].at("console")
    found = {
        "rival": {Setting.of(row): str(row["against"]) for row in summary if "against" in row},
        "training\npasses": {
            Setting.of(row): column.text(row["train_passes"]) for row in summary if "train_passes" in row
        },
    }
    return {name: cells for name, cells in found.items() if cells}
