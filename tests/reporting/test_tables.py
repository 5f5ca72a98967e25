"""Tables of results for people to read."""

from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.tables import Cell, markdown, notes, tables, without_figures

FULL: Row = {
    "method": "full",
    "setting": "1x",
    "seed": 0,
    "bleu": 40.0,
    "bleu_ci95": [39.0, 41.0],
    "layer_speedup": 1.0,
}
SKIP: Row = {
    "method": "skipdecode",
    "setting": "3x",
    "seed": 0,
    "bleu": 38.5,
    "bleu_ci95": [37.0, 40.0],
    "layer_speedup": 3.0,
}
LOST: Row = {"method": "lost", "setting": "<b>", "seed": 0, "error": "ValueError: a < b"}
ROWS: list[Row] = [
    {**FULL, "batch_size": 1, "decode_speedup": 1.0, "kv_bytes": 2048},
    {**FULL, "batch_size": 8, "decode_speedup": 1.0, "kv_bytes": 4096},
    {**SKIP, "batch_size": 1, "decode_speedup": 2.9, "decode_speedup_quartiles": [2.8, 3.0]},
    {**SKIP, "batch_size": 8, "decode_speedup": 2.7},
    LOST,
]
SUMMARY: list[Row] = [
    {"method": "full", "setting": "1x", "seeds": [0], "bleu": 40.0, "layer_speedup": 1.0},
    {
        "method": "skipdecode",
        "setting": "3x",
        "seeds": [0, 1],
        "bleu": 38.5,
        "bleu_seeds": [38.0, 39.0],
        "layer_speedup": 3.0,
        "against": "full 1x",
        "rouge_l_difference": -0.0213,
        "rouge_l_difference_ci95": [-0.03, -0.01],
        "rouge_l_p_value": 0.0001,
    },
]


def test_tables_have_a_line_per_setting_and_columns_per_batch_size() -> None:
    quality, speed = tables(ROWS, SUMMARY)
    assert quality.errors == {2: "ValueError: a < b"}
    assert quality.lines[2] == [Cell("lost"), Cell("<b>")]
    assert speed.lines[0][speed.header.index("KV KiB, batch 8")] == Cell("4")
    assert speed.lines[1][speed.header.index("decode speedup, batch 1")] == Cell("2.90x", "[2.80x, 3.00x]")
    assert speed.lines[1][speed.header.index("KV KiB, batch 8")] == Cell("")


def test_settings_over_seeds_show_their_difference_from_the_rival() -> None:
    over_seeds = tables([*ROWS, {**SKIP, "seed": 1}], SUMMARY)[0]
    assert over_seeds.header == [
        "method", "setting", "seeds", "layer speedup", "BLEU", "against", "ROUGE-L difference",
    ]  # fmt: skip
    assert over_seeds.lines[1][2:] == [
        Cell("2"),
        Cell("3.00x"),
        Cell("38.5", "[38.0, 39.0]"),
        Cell("full 1x"),
        Cell("-0.021", "[-0.030, -0.010] p=<0.001"),
    ]


def test_figures_by_seed_are_shown_when_there_are_several() -> None:
    _, by_seed, _ = tables([*ROWS, {**SKIP, "seed": 1}], SUMMARY)
    assert by_seed.header == ["method", "setting", "seed", "layer speedup", "BLEU"]
    assert [line[2].text for line in by_seed.lines] == ["0", "0", "0", "1"]
    assert by_seed.lines[1][3:] == [Cell("3.00x"), Cell("38.5", "[37.0, 40.0]")]


def test_without_timing_there_is_no_speed_table() -> None:
    assert [table.title for table in tables([FULL, SKIP], SUMMARY)] == ["Quality"]


def test_a_setting_without_figures_has_its_error() -> None:
    assert without_figures(ROWS) == {Setting("lost", "<b>"): "ValueError: a < b"}
    assert without_figures([{**FULL, "error": "timing failed"}]) == {}


def test_markdown_ends_with_the_errors() -> None:
    text = markdown(tables(ROWS, SUMMARY), ROWS)
    assert "| skipdecode | 3x | 3.00x | 38.5 |" in text
    assert text.endswith("- lost <b> failed: ValueError: a < b")


def test_the_usual_figures_of_a_task_are_shown() -> None:
    rouges = {"rouge_1": 0.401, "rouge_2": 0.202, "rouge_l": 0.303}
    (quality,) = tables([{**FULL, **rouges}], [{**FULL, **rouges}])
    assert {"ROUGE-1", "ROUGE-2", "ROUGE-L"} <= set(quality.header)
    slots = {**FULL, **rouges, "slot_accuracy": 0.987}
    (quality,) = tables([slots], [slots])
    assert "ROUGE-L" in quality.header
    assert "ROUGE-1" not in quality.header


def test_the_notes_have_the_signature_of_bleu() -> None:
    assert notes([{**FULL, "bleu_signature": "nrefs:1|tok:13a"}, FULL]).endswith("sacrebleu's, nrefs:1|tok:13a.")
    assert "sacrebleu" not in notes([FULL])
