"""The HTML report."""

import re
from dataclasses import replace

import numpy as np
import pytest

from skiplab.evaluation.generate import Generation
from skiplab.reporting.curves import Curve, curves, front, series_styles
from skiplab.reporting.headline import headline
from skiplab.reporting.headline_plot import headline_plot
from skiplab.reporting.html import Page, html
from skiplab.reporting.main_table import main_table
from skiplab.reporting.plot_style import COLOURS, INK, Style, styles
from skiplab.reporting.plots import layer_plot, plots
from skiplab.reporting.record import Entry, Record, Timing
from skiplab.reporting.results import Row
from skiplab.reporting.samples import samples
from skiplab.reporting.svg import inline
from skiplab.reporting.tables import tables
from tests.reporting.test_tables import FULL, ROWS, SKIP, SUMMARY

SCRIPT = "<script>document.title = 'run'</script>"
JUDGED: list[Row] = [
    {**SUMMARY[0], "slot_accuracy": 0.99, "slot_accuracy_ci95": [0.98, 1.0]},
    {
        **SUMMARY[1],
        "slot_accuracy": 0.95,
        "slot_accuracy_from_full": -0.04,
        "slot_accuracy_from_full_ci95": [-0.05, -0.03],
    },
]


def records(*batches: int) -> list[Record]:
    """Records of the full model and of SkipDecode, timed at some batch sizes."""
    speeds = {"decode_tokens_per_s": 50.0, "layers_per_step": 3.0}
    return [
        Record(
            entry=Entry(row["method"], row["setting"], row["seed"]),
            series=row["method"],
            chosen=0,
            trained=True,
            timed=True,
            figures={},
            outputs=Generation([f"<i>text</i> {SCRIPT} {row['method']}"] * 7, [[5, 2]] * 7, [[4, 2]] * 7),
            item_scores={},
            timings=tuple(
                Timing({"batch_size": batch, "decode_speedup": speed, **speeds}, [1.0, 2.0]) for batch in batches
            ),
        )
        for row, speed in ((FULL, 1.0), (SKIP, 2.9))
    ]


def drawn(*batches: int) -> list[Curve]:
    return curves(JUDGED, records(*batches))


class OneItem:
    prompt, references = f"say <it> {SCRIPT}", ["said"]


def page(*batches: int) -> Page:
    """A whole page, with markup in all texts that come from outside."""
    shown = drawn(*batches)
    series = series_styles(shown)
    return Page(
        title="x",
        description=f"what {SCRIPT}",
        facts=[("task", "restaurants"), ("backbone", "OPT")],
        commands=[("the run", "python -m skiplab.run experiment=smoke " + "a" * 300)],
        warnings=["The test split has 24 items, fewer than 100: its figures are rough."],
        sentences=headline(ROWS, JUDGED).sentences,
        limits=["not much"],
        picture=headline_plot(shown, "slot_accuracy", series),
        results=main_table(ROWS, JUDGED, {curve.setting: series[curve.series] for curve in shown}),
        rows=ROWS,
        tables=tables(ROWS, JUDGED),
        plots=plots(shown),
        samples=samples([OneItem()] * 7, records(), count=7),  # type: ignore[list-item]
        environment={"cpu": "c", "cores": 2, "threads": 1, "seed": 0, "long": "b" * 300},
        config=f"a: {'1' * 300}",
        notes="so read",
    )


def test_the_page_escapes_text_and_holds_every_plot() -> None:
    made = page(1, 8)
    text = html(made)
    assert set(made.plots) == {
        "quality_by_layer_speedup",
        "difference_from_rival",
        "quality_by_decode_speedup_batch1",
        "quality_by_decode_speedup_batch8",
        "depth_by_step",
        "ms_by_step",
    }
    assert text.count("<svg") == len(made.plots) + 2
    assert text.count("<script>") == 1
    assert "&lt;i&gt;text&lt;/i&gt;" in text
    assert "<i>text</i>" not in text
    assert "failed: ValueError: a &lt; b" in text
    assert "<td>-0.021<small>[-0.030, -0.010] p=&lt;0.001</small></td>" in text


def test_rows_of_further_tables_begin_with_method_and_setting() -> None:
    text = html(page(1, 8)).partition('id="table-quality"')[2]
    assert '<th scope="col" class="name">method and setting</th>' in text
    assert '<th scope="row" class="name">skipdecode 3x</th>' in text


def test_names_in_the_notes_are_code_and_their_markup_is_text() -> None:
    text = html(replace(page(), notes="`full 1x` is <b>"))
    assert "<p><code>full 1x</code> is &lt;b&gt;</p>" in text


def test_links_of_the_page_lead_somewhere_and_no_id_stands_twice() -> None:
    text = html(page(1, 8))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert 'href="#row-skipdecode-3x"' in text


def test_the_first_samples_are_shown_and_the_others_on_demand() -> None:
    first, more = html(page()).split('<details id="more-outputs">')
    assert first.count('class="sample"') == 5
    assert more.count('class="sample"') == 2
    assert "2 more prompts" in more


def test_a_page_without_sentences_begins_with_its_first_table() -> None:
    text = html(Page("x", "", [], ROWS, tables(ROWS, JUDGED), {}, {}, "", ""))
    assert '<h2 id="results">Quality</h2>' in text
    assert "What was found" not in text


def test_points_of_a_plot_say_what_they_are() -> None:
    picture = headline_plot(found := drawn(8), "slot_accuracy", series_styles(found))
    assert picture is not None
    text = inline(picture.figure, picture.title, "picture")
    assert "<title>skipdecode 3x: slot accuracy 0.950 [0.950, 0.950], decode speedup at batch 8 2.90x</title>" in text
    assert "var(--s1)" in text
    assert COLOURS[0] not in text
    assert INK not in text


def test_text_of_plots_is_at_least_nine_pixels_high() -> None:
    text = html(page(1, 8))
    # A user unit is 4/3 pixels where a plot has its own size.
    sizes = [float(size) for size in re.findall(r"font: (?:\w+ )?([\d.]+)px", text)]
    assert sizes
    assert min(sizes) * 4 / 3 >= 9


def test_prompt_plans_add_plots_of_what_they_save() -> None:
    prompted = [SUMMARY[0], {**SUMMARY[1], "prefill_layer_speedup": 1.5}]
    found = plots(curves(prompted, records(1)))
    assert {name for name in found if "pre" in name or "end" in name} == {
        "quality_by_prefill_layer_speedup",
        "quality_by_prefill_speedup_batch1",
        "quality_by_end_to_end_speedup_batch1",
    }
    axis = found["quality_by_prefill_layer_speedup"].figure.axes[0]
    points = [np.asarray(line.get_xdata()).tolist() for line in axis.lines if line.get_linestyle() == "None"]
    assert points == [[1.0], [1.5]]


def many(count: int, *, slow: float = 1.0, **figures: float) -> list[Curve]:
    """The full model, a fast method, and settings of another whose steps take `slow` times as long."""
    first, second = drawn(8)
    others = [
        Curve(
            series="other",
            label=f"other {number}x with a long name",
            row={**second.row, "method": "other", "setting": f"{number}x with a long name"},
            depth_by_step=second.depth_by_step,
            speeds={8: {**second.speeds[8], **figures}},
            step_ms={8: [slow, slow]},
        )
        for number in range(count)
    ]
    return [first, second, *others]


@pytest.mark.parametrize("name", ["depth_by_step", "ms_by_step"])
def test_a_long_legend_stands_below_the_label_of_its_panel(name: str) -> None:
    figure = plots(many(9))[name].figure
    figure.draw_without_rendering()
    for axis in figure.axes:
        legend, label = axis.get_legend(), axis.xaxis.label
        assert legend is not None
        assert not legend.get_window_extent().overlaps(label.get_window_extent())
        assert axis.get_window_extent().height > 1.3 * figure.dpi


def test_a_slow_panel_is_not_cut_by_the_limits_of_the_first() -> None:
    axes = plots(many(2, slow=40.0))["ms_by_step"].figure.axes
    assert [axis.get_ylim()[0] for axis in axes] == [0, 0]
    assert all(axis.get_ylim()[1] >= 40 for axis in axes)


def test_settings_whose_passes_yield_several_tokens_have_no_time_by_step() -> None:
    found = plots(many(2, tokens_per_verification=2.5))
    for name in ("depth_by_step", "ms_by_step"):
        assert [axis.get_title() for axis in found[name].figure.axes] == ["skipdecode"]
        assert "several tokens" in found[name].sentence
    assert "several tokens" not in plots(many(2))["ms_by_step"].sentence


def test_many_batch_sizes_are_one_plot() -> None:
    found = plots(drawn(1, 2, 4, 8))
    assert {name for name in found if "batch" in name} == {"cost_by_batch"}
    titles = [axis.get_ylabel() for axis in found["cost_by_batch"].figure.axes]
    assert titles == ["layers per step (deepest row)", "ms per token", "decode speedup"]


def test_stacked_layer_times_add_up_to_the_step() -> None:
    layers = [{"rows": 4.0, "layer_ms": 1.0, "kv_ms": 0.5, "head_ms": 0.25}, {"other_ms": 0.25}]
    figure = layer_plot({"calm": layers}).figure
    assert figure.axes[0].get_title() == "calm: 2.00 ms"


def test_the_front_holds_the_points_that_no_other_beats() -> None:
    points = [(1.0, 0.9), (2.0, 0.9), (3.0, 0.8), (2.5, 0.7), (4.0, 0.1), (3.0, 0.8)]
    assert list(front(points)) == [1, 2, 4, 5]
    assert list(front([(1.0, 2.0), (2.0, 2.0), (2.0, 3.0)], minimize=True)) == [1]


def test_no_two_of_forty_series_look_alike() -> None:
    looks = styles([f"series {number}" for number in range(39)], "full")
    assert looks["full"] == Style(0)
    assert len({(look.colour, look.glyph) for look in looks.values()}) == 40


def test_a_comparison_of_one_setting_has_no_picture() -> None:
    alone = drawn()[:1]
    assert headline_plot(alone, "slot_accuracy", series_styles(alone)) is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_of_series_have_the_contrast_that_graphics_need(scheme: str) -> None:
    values = variables(scheme)
    for number in range(1, len(COLOURS) + 1):
        assert contrast(values[f"--s{number}"], values["--paper"]) >= 3
    if scheme == "light":
        assert [values[f"--s{number}"] for number in range(1, len(COLOURS) + 1)] == list(COLOURS)


def variables(scheme: str) -> dict[str, str]:
    """The style sheet's variables in a colour scheme."""
    from importlib.resources import files

    light, dark = (files("skiplab.reporting") / "report.css").read_text().split("@media (prefers-color-scheme: dark)")
    pairs = re.findall(r"(--[\w-]+): (#\w{6})", light if scheme == "light" else dark.split("\n* {")[0])
    return dict(pairs)


def contrast(one: str, other: str) -> float:
    """Ratio by WCAG 2.1."""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
