"""Tables and the page."""

import io

from rich.console import Console

from skiplab.plots import curves, figures
from skiplab.report import Page, html, markdown, print_table, samples, tables

FULL = {"method": "full", "setting": "1x", "seed": 0, "bleu": 40.0, "bleu_ci95": [39.0, 41.0], "layer_speedup": 1.0}
SKIP = {
    "method": "skipdecode",
    "setting": "3x",
    "seed": 0,
    "bleu": 38.5,
    "bleu_ci95": [37.0, 40.0],
    "layer_speedup": 3.0,
}
LOST = {"method": "lost", "setting": "<b>", "seed": 0, "error": "ValueError: a < b"}
ROWS = [
    {**FULL, "batch_size": 1, "decode_speedup": 1.0, "kv_bytes": 2048},
    {**FULL, "batch_size": 8, "decode_speedup": 1.0, "kv_bytes": 4096},
    {**SKIP, "batch_size": 1, "decode_speedup": 2.9},
    {**SKIP, "batch_size": 8, "decode_speedup": 2.7},
    LOST,
]
RECORDS = {
    row["method"]: {"series": row["method"], "row": row, "depth_by_step": [4, 2], "outputs": {"texts": ["<i>text</i>"]}}
    for row in (FULL, SKIP)
}
TIMING = {
    row["method"]: [{"row": {"batch_size": batch, "decode_speedup": 2.0}, "step_ms": [1.0, 2.0]} for batch in (1, 8)]
    for row in (FULL, SKIP)
}


class OneItem:
    prompt, references = "say <it>", ["said"]


def test_tables_have_a_line_per_setting_and_columns_per_batch_size() -> None:
    quality, speed = tables(ROWS)
    assert quality.header == ["method", "setting", "layer speedup", "BLEU"]
    assert quality.lines[1] == ["skipdecode", "3x", "3.00x", "38.5 [37.0, 40.0]"]
    assert quality.errors == {2: "ValueError: a < b"}
    assert speed.lines[0][speed.header.index("KV KiB, batch 8")] == "4"
    assert speed.lines[1][speed.header.index("decode speedup, batch 8")] == "2.70x"
    assert speed.lines[1][speed.header.index("KV KiB, batch 8")] == ""


def test_seeds_are_shown_when_there_are_several() -> None:
    quality, _ = tables([*ROWS, {**SKIP, "seed": 1}])
    assert quality.header[2] == "seed"
    assert [line[2] for line in quality.lines] == ["0", "0", "0", "1"]


def test_console_and_markdown_tables() -> None:
    text = io.StringIO()
    print_table(ROWS, Console(file=text, width=100))
    assert [line.split()[:2] for line in text.getvalue().splitlines() if "full" in line] == [["full", "1x"]]
    assert "failed" in text.getvalue()
    assert "| skipdecode | 3x | 3.00x | 38.5 |" in markdown(ROWS)
    assert "- lost <b> failed: ValueError: a < b" in markdown(ROWS)


def test_the_page_escapes_text_and_holds_every_plot() -> None:
    drawn = figures(curves(RECORDS, TIMING))
    assert set(drawn) == {
        "quality_by_layer_speedup",
        "quality_by_decode_speedup_batch1",
        "quality_by_decode_speedup_batch8",
        "depth_by_step",
        "ms_by_step",
    }
    shown = samples([OneItem()], RECORDS, count=1)  # type: ignore[list-item]
    page = html(
        Page("x", "what", "task", ROWS, drawn, shown, {"cpu": "c", "cores": 2, "threads": 1, "seed": 0}, "a: 1")
    )
    assert page.count("<svg") == len(drawn)
    assert "&lt;i&gt;text&lt;/i&gt;" in page
    assert "<i>text</i>" not in page
    assert "failed: ValueError: a &lt; b" in page
