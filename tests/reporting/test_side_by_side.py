"""Runs side by side."""

from dataclasses import replace

from skiplab.reporting.html import html
from skiplab.reporting.main_table import Shown
from skiplab.reporting.record import Setting
from skiplab.reporting.side_by_side import FinishedRun, side_by_side
from tests.reporting.test_html import JUDGED
from tests.reporting.test_tables import ROWS

ONE = FinishedRun("A", "outputs/one", "compare", ROWS, JUDGED, {"cpu": "c", "threads": 1, "git_revision": "a" * 40})
OTHER = replace(ONE, name="B", folder="outputs/two", rows=ROWS[:3], summary=[*JUDGED, {**JUDGED[1], "setting": "5x"}])


def test_every_setting_of_any_run_has_a_line_with_the_figures_of_each() -> None:
    page = side_by_side([ONE, OTHER])
    assert page.results is not None
    assert page.results.header == [
        "slot acc., A", "slot acc., B", "layer speedup, A", "layer speedup, B", "decode speedup, batch 8, A",
        "decode speedup, batch 8, B",
    ]  # fmt: skip
    lines = {line.setting: line.cells for line in page.results.lines}
    assert list(lines) == [Setting("full", "1x"), Setting("skipdecode", "3x"), Setting("skipdecode", "5x")]
    assert lines[Setting("skipdecode", "5x")][:2] == [Shown(), Shown("0.950", "", 0.95)]
    assert lines[Setting("skipdecode", "3x")][4:] == [Shown("2.70x", "", 2.7), Shown()]


def test_sentences_name_their_run_and_differences_of_machines_are_warned_of() -> None:
    page = side_by_side([ONE, replace(OTHER, environment={"cpu": "d", "threads": 1})])
    assert {str(sentence)[:7] for sentence in page.sentences} == {"Run A: ", "Run B: "}
    assert page.warnings == ["The runs differ in processor, so their speeds do not compare: c and d."]
    text = html(page)
    assert "run A&#39;s full model&#39;s 95% interval" in text
    assert 'href="#row-skipdecode-3x"' in text
