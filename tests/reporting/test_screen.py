"""What a job prints, with and without a terminal."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from skiplab.reporting import screen as module
from skiplab.reporting.screen import Screen, clock


def test_lines_go_to_the_console_and_with_the_time_to_the_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    screen = Screen(Console(file=stream), tmp_path / "run.log")
    screen.print("a [b] line " * 20)
    assert stream.getvalue() == "a [b] line " * 20 + "\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (a \[b\] line ){20}\n", (tmp_path / "run.log").read_text())


def test_a_table_has_the_consoles_width(tmp_path: Path) -> None:
    widths: list[int] = []

    def made(width: int) -> Table:
        widths.append(width)
        return Table("column")

    Screen(Console(file=io.StringIO(), width=90), tmp_path / "run.log").table(made)
    assert widths == [90, 200]
    assert "column" in (tmp_path / "run.log").read_text()


def test_without_a_terminal_progress_is_lines_and_none_is_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_SECONDS", -1.0)
    stream = io.StringIO()
    counted = Screen(Console(file=stream)).counting("batches")
    assert list(counted(range(3))) == [0, 1, 2]
    assert stream.getvalue().splitlines() == [
        "    batches: 1 of 3, 0:00, about 0:00 left", "    batches: 2 of 3, 0:00, about 0:00 left",
    ]  # fmt: skip


def test_on_a_terminal_a_bar_says_what_it_counts() -> None:
    stream = io.StringIO()
    counted = Screen(Console(file=stream, force_terminal=True, width=100)).counting("batches")
    assert list(counted(range(3))) == [0, 1, 2]
    assert "batches" in stream.getvalue()
    assert "3 of 3" in stream.getvalue()


def test_beside_a_bar_no_count_or_time_is_cut_at_eighty_columns() -> None:
    stream = io.StringIO()
    counted = Screen(Console(file=stream, force_terminal=True, width=80)).counting("batches of the calibration items")
    list(counted(range(3000)))
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", stream.getvalue())
    assert "batches of the calibration items ━" in shown
    assert re.search(r" 3000 of 3000, \d:\d\d, about 0:00 left *\s", shown)
    assert "…" not in shown


def test_on_a_terminal_lines_are_broken_between_words(tmp_path: Path) -> None:
    stream = io.StringIO()
    screen = Screen(Console(file=stream, force_terminal=True, width=20), tmp_path / "run.log")
    screen.print("    one two three four\n/" + "a" * 30)
    assert stream.getvalue() == "    one two three\n      four\n/" + "a" * 30 + "\n"
    assert "    one two three four\n" in (tmp_path / "run.log").read_text()


def test_durations_are_read_like_a_clock() -> None:
    assert [clock(seconds) for seconds in (4.6, 75, 3675)] == ["0:05", "1:15", "1:01:15"]
