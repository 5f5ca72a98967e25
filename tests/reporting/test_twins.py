"""One decoder under two names."""

from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.twins import twins_note, twins_of


def row(setting: str, **more: object) -> Row:
    return {"method": "calm", "setting": setting, "seeds": [0], "layer_speedup": 2.5, "bleu": 70.0, **more}


def test_at_full_depth_equal_figures_do_not_make_one_decoder() -> None:
    assert twins_of([row("a", layer_speedup=1.0), row("b", layer_speedup=1.0)]) == {}


def test_settings_with_equal_figures_are_one_decoder() -> None:
    summary = [row("a"), row("b"), row("c", bleu=71.0), row("d", threshold=0.5), {**row("e"), "method": "skipdecode"}]
    assert twins_of(summary) == {Setting("calm", "b"): Setting("calm", "a")}
    assert twins_note(summary) == "One decoder under several names, timed once for each: calm a and calm b."
    assert twins_note([row("a")]) == ""
