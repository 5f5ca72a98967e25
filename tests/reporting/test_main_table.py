"""The table of results."""

from skiplab.reporting.main_table import Shown, main_table
from skiplab.reporting.plot_style import Style
from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from tests.reporting.test_console_table import SUMMARY
from tests.reporting.test_tables import ROWS


def test_eight_columns_hold_what_settings_are_judged_by() -> None:
    table = main_table(ROWS, SUMMARY, {Setting("skipdecode", "3x"): Style(1)})
    assert table.header == [
        "slot acc.", "slot acc. minus full model's", "BLEU", "layer speedup", "decode speedup, batch 1",
        "decode speedup, batch 8", "slot acc. minus rival's",
    ]  # fmt: skip
    line = table.lines[1]
    assert line.style == Style(1)
    assert line.cells[1] == Shown("-0.040", "[-0.050, -0.030]", -0.04)
    assert line.cells[4] == Shown("2.90x", "[2.80x, 3.00x]", 2.9)
    assert line.cells[6] == Shown("-0.021", "[-0.030, -0.010] p=<0.001\nvs skipdecode 2x", -0.021)
    assert table.lines[-1].error == "ValueError: a < b"


def test_each_setting_has_an_id_of_its_own() -> None:
    summary: list[Row] = [{"method": "calm", "setting": name, "seeds": [0]} for name in ("softmax ~2x", "softmax 2x")]
    assert [line.anchor for line in main_table([], summary, {}).lines] == [
        "row-calm-softmax-2x",
        "row-calm-softmax-2x-2",
    ]


def test_equal_decoders_are_named() -> None:
    row: Row = {"method": "calm", "setting": "a", "seeds": [0], "layer_speedup": 2.0}
    assert [line.note for line in main_table([], [row, {**row, "setting": "b"}], {}).lines] == [
        "",
        "the same decoder as calm a",
    ]
