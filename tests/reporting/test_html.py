"""The HTML report."""

from skiplab.evaluation.generate import Generation
from skiplab.reporting.html import Page, html, samples
from skiplab.reporting.plots import curves, figures, layer_figure
from skiplab.reporting.record import Entry, Record, Timing
from skiplab.reporting.tables import tables
from tests.reporting.test_tables import FULL, ROWS, SKIP, SUMMARY


def records(*batches: int) -> list[Record]:
    """Records of the full model and of SkipDecode, timed at some batch sizes."""
    speeds = {"decode_speedup": 2.0, "decode_tokens_per_s": 50.0, "layers_per_step": 3.0}
    return [
        Record(
            entry=Entry(row["method"], row["setting"], row["seed"]),
            series=row["method"],
            chosen=0,
            trained=True,
            timed=True,
            figures={},
            outputs=Generation(["<i>text</i>"], [[5, 2]], [[4, 2]]),
            item_scores={},
            timings=tuple(Timing({"batch_size": batch, **speeds}, [1.0, 2.0]) for batch in batches),
        )
        for row in (FULL, SKIP)
    ]


class OneItem:
    prompt, references = "say <it>", ["said"]


def test_the_page_escapes_text_and_has_every_plot() -> None:
    drawn = figures(curves(SUMMARY, records(1, 8)))
    assert set(drawn) == {
        "quality_by_layer_speedup",
        "difference_from_rival",
        "quality_by_decode_speedup_batch1",
        "quality_by_decode_speedup_batch8",
        "depth_by_step",
        "ms_by_step",
    }
    shown = samples([OneItem()], records(), count=1)  # type: ignore[list-item]
    environment = {"cpu": "c", "cores": 2, "threads": 1, "seed": 0}
    page = html(Page("x", "what", "task", ROWS, tables(ROWS, SUMMARY), drawn, shown, environment, "a: 1", "so read"))
    assert page.count("<svg") == len(drawn)
    assert "&lt;i&gt;text&lt;/i&gt;" in page
    assert "<i>text</i>" not in page
    assert "failed: ValueError: a &lt; b" in page
    assert "<td>-0.021<small>[-0.030, -0.010] p=&lt;0.001</small></td>" in page


def test_prompt_plans_add_plots_of_what_they_save() -> None:
    prompted = [SUMMARY[0], {**SUMMARY[1], "prefill_layer_speedup": 1.5}]
    drawn = figures(curves(prompted, records(1)))
    assert {name for name in drawn if "pre" in name or "end" in name} == {
        "quality_by_prefill_layer_speedup",
        "quality_by_prefill_speedup_batch1",
        "quality_by_end_to_end_speedup_batch1",
    }
    whole, ends = (
        list(line.get_xdata()) for line, *_ in drawn["quality_by_prefill_layer_speedup"].axes[0].containers[:2]
    )
    assert (whole, ends) == ([1.0], [1.5])


def test_many_batch_sizes_are_one_plot() -> None:
    drawn = figures(curves(SUMMARY, records(1, 2, 4, 8)))
    assert {name for name in drawn if "batch" in name} == {"cost_by_batch"}
    titles = [axis.get_ylabel() for axis in drawn["cost_by_batch"].axes]
    assert titles == ["layers per step (deepest row)", "ms per token", "decode speedup"]


def test_stacked_layer_times_add_up_to_the_step() -> None:
    layers = [{"rows": 4.0, "layer_ms": 1.0, "kv_ms": 0.5, "head_ms": 0.25}, {"other_ms": 0.25}]
    figure = layer_figure({"calm": layers})
    assert figure.axes[0].get_title() == "calm: 2.00 ms"
