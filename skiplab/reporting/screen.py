"""What a job prints: on its terminal, and with the time in the log file of its run folder."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import wrap
from time import monotonic
from typing import Any, final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from skiplab.utils import progress
from skiplab.utils.run_log import write_line

# Between two lines on the progress of a piece of work where no bar can be drawn.
_LINE_SECONDS = 30.0
_LOG_WIDTH = 200
_BAR_WIDTH = 40


@final
class Screen:
    """A job's output.

    Args:
        console: None prints nothing.
        log: file to which lines are added; None keeps none.
    """

    def __init__(self, console: Console | None = None, log: Path | None = None) -> None:
        self.console = console or Console(quiet=True)
        self._log = log
        self._start = monotonic()

    def print(self, text: str, style: str | None = None) -> None:
        """Print lines without markup; on a terminal they are broken between words."""
        shown = _broken(text, self.console.width) if self.console.is_terminal else text
        self.console.print(shown, style=style, soft_wrap=True, highlight=False, markup=False)
        self._note(text)

    def phase(self, name: str, left: str = "") -> None:
        """Print that a phase of the job begins, with the elapsed time and what is left of it."""
        self.print(f"{name} ({', '.join(filter(None, [f'{clock(monotonic() - self._start)} elapsed', left]))})")

    def table(self, make: Callable[[int], Table]) -> None:
        """Print a table that is made for the console's width; the log has it at its widest."""
        self.console.print(make(self.console.width))
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                Console(file=file, width=_LOG_WIDTH).print(make(_LOG_WIDTH))

    def counting(self, what: str) -> progress.Progress:
        """Passes pieces of work on while it shows how many are done: as a bar on a terminal, else as lines.

        Args:
            what: the pieces, such as `batches of the test split`.
        """

        def counted(work: Iterable[Any]) -> Iterator[Any]:
            pieces = list(work)
            return self._with_bar(pieces, what) if self.console.is_terminal else self._with_lines(pieces, what)

        return counted

    def bar(self) -> Progress:
        """A bar that vanishes when it is done: what is counted, how many, elapsed and remaining time."""
        return Progress(
            TextColumn("    {task.description}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1, max_width=_BAR_WIDTH)), _Counted(),
            console=self.console, transient=True, expand=True, disable=not self.console.is_terminal,
        )  # fmt: skip

    def _with_bar(self, pieces: list[Any], what: str) -> Iterator[Any]:
        with self.bar() as bar:
            yield from bar.track(pieces, description=what)

    def _with_lines(self, pieces: list[Any], what: str) -> Iterator[Any]:
        last = start = monotonic()
        for number, piece in enumerate(pieces):
            if number and monotonic() - last > _LINE_SECONDS:
                last = monotonic()
                left = (last - start) / number * (len(pieces) - number)
                self.print(f"    {what}: {_counted(number, len(pieces), last - start, left)}")
            yield piece

    def _note(self, text: str) -> None:
        if self._log is not None:
            write_line(self._log, text)


@final
class _Counted(ProgressColumn):
    """What a line says beside a bar; never cut."""

    def render(self, task: Task) -> Text:
        total, elapsed = int(task.total or 0), task.elapsed or 0.0
        return Text(_counted(int(task.completed), total, elapsed, task.time_remaining), no_wrap=True)


def _counted(number: int, total: int, elapsed: float, left: float | None) -> str:
    """How many pieces are done, and the times; the time left is None before one can tell."""
    of_time = "" if left is None else f", about {clock(left)} left"
    return f"{number} of {total}, {clock(elapsed)}{of_time}"


def _broken(text: str, width: int) -> str:
    """Lines broken between words to fit a width; the rest of a line is indented further than its start."""
    found = []
    for line in text.splitlines() or [""]:
        further = " " * (len(line) - len(line.lstrip()) + 2)
        broken = wrap(
            line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False,
        )  # fmt: skip
        found += broken or [line]
    return "\n".join(found)


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
