"""Human-readable outputs of a comparison: files in its run folder, runs and artifacts in MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from skiplab.comparison.facts import commands, facts, parameters
from skiplab.comparison.session import Session
from skiplab.data.module import Item, TextData
from skiplab.data.source import SlotSource, Source
from skiplab.evaluation.generate import Generation
from skiplab.reporting import html
from skiplab.reporting.curves import curves, series_styles
from skiplab.reporting.headline import headline
from skiplab.reporting.headline_plot import headline_plot
from skiplab.reporting.limits import limits
from skiplab.reporting.main_table import main_table
from skiplab.reporting.plot_style import Plot
from skiplab.reporting.plots import layer_plot
from skiplab.reporting.plots import plots as comparison_plots
from skiplab.reporting.record import Record, Timing
from skiplab.reporting.results import Row
from skiplab.reporting.samples import ReadSlots, samples
from skiplab.reporting.standings import quality_of
from skiplab.reporting.tables import Table, markdown, notes
from skiplab.reporting.tables import tables as comparison_tables
from skiplab.reporting.tracker import Tracker
from skiplab.reporting.training_cost import training_cost
from skiplab.reporting.twins import twins_note, twins_of
from skiplab.reporting.vocabulary import FIGURES
from skiplab.utils.files import write_text

_DESCRIBED = ("backbone", "trainer", "base", "speedups", "seeds", "limit", "generation", "benchmark")


def describe(tracker: Tracker, config: Mapping[str, Any], data: TextData, environment: Mapping[str, Any]) -> None:
    """Log configuration, environment and data sets to the active run."""
    described = {key: config[key] for key in _DESCRIBED} | {"environment": environment}
    tracker.log_params({"data": data.source.name, **_flat(described)})
    for split, context in (("train", "training"), ("test", "testing")):
        tracker.log_dataset(data.splits[split], f"{data.source.name} {split}", context)


def track_outputs(tracker: Tracker, record: Record, full: Generation, items: Sequence[Item], count: int = 50) -> None:
    """Log a setting's figures, depth by step, and first outputs beside the full model's to the active run."""
    tracker.log_figures(record.row)
    tracker.log_series("depth", record.outputs.depth_by_step())
    tracker.log_table(
        {
            "prompt": [item.prompt for item in items[:count]],
            "output": record.outputs.texts[:count],
            "full model": full.texts[:count],
            "reference": [item.references[0] for item in items[:count]],
        },
        "outputs.json",
    )


def track_timing(tracker: Tracker, run_id: str | None, timing: Timing) -> None:
    """Log a setting's speed at one batch size to its run."""
    group = f"batch{timing.batch_size}/"
    tracker.log_figures(timing.figures, group=group, run_id=run_id)
    tracker.log_series(f"{group}step_ms", timing.step_ms, first_step=1, run_id=run_id)


def page(
    session: Session,
    rows: Sequence[Row],
    summary: Sequence[Row],
    records: Sequence[Record],
    *,
    tables: Sequence[Table],
    plots: Mapping[str, Plot],
    environment: Mapping[str, Any],
) -> html.Page:
    """A comparison's report.

    Args:
        records: finished settings.
        tables, plots: further ones, shown after the comparison's own tables and with its plots.
    """
    prepared, folder = session.prepared, session.folder
    config, data = prepared.config, prepared.data
    drawn = curves(summary, records)
    series = series_styles(drawn)
    styles = {curve.setting: series[curve.series] for curve in drawn}
    twins = twins_of(summary)
    cost = training_cost(summary)
    judged = quality_of(summary) or next((figure.name for figure in FIGURES.shown("plot", _keys(summary))), None)
    return html.Page(
        title=config.tracking.experiment,
        description=config.description or "",
        facts=[*facts(prepared, environment), *([("training", cost)] if cost else [])],
        commands=commands(folder.load("command"), folder.path),
        warnings=prepared.notes,
        sentences=headline(rows, summary).sentences,
        limits=limits(rows, summary, environment, parameters(prepared)),
        picture=headline_plot([one for one in drawn if one.setting not in twins], judged, series) if judged else None,
        results=main_table(rows, summary, styles),
        rows=rows,
        tables=[*comparison_tables(rows, summary), *tables],
        plots={**comparison_plots(drawn), **_layers(folder.load("layers") or {}, records), **plots},
        samples=samples(data.items("test"), records, count=25, slots=_slots(data.source)),
        environment=environment,
        config=OmegaConf.to_yaml(OmegaConf.create(config.plain)),
        notes=" ".join(filter(None, [notes(rows), twins_note(summary)])),
    )


def _keys(rows: Sequence[Row]) -> set[str]:
    return {key for row in rows for key in row}


def _slots(source: Source) -> ReadSlots | None:
    return source.slots if isinstance(source, SlotSource) else None


def _layers(layers: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Plot]:
    """Times by layer of these records' settings."""
    shown = {record.entry.label for record in records}
    known = {label: times for label, times in layers.items() if label in shown}
    return {"ms_by_layer": layer_plot(known)} if known else {}


def publish(tracker: Tracker, folder: Path, page: html.Page) -> None:
    """Write report, plots and configuration to the run folder, and log these and the results to the active run."""
    write_text(folder / "report.html", html.html(page))
    write_text(folder / "config.yaml", page.config)
    plots = {**({"headline": page.picture} if page.picture else {}), **page.plots}
    for name, plot in plots.items():
        path = folder / "plots" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        # The HTML page has laid it out already.
        plot.figure.set_layout_engine("none")
        plot.figure.savefig(path, dpi=150)
        tracker.log_file(path, "plots")
    for name in ("report.html", "results.json", "results.csv", "config.yaml"):
        tracker.log_file(folder / name)
    tracker.set_note(note(page))


def note(page: html.Page) -> str:
    """The report's sentences and first table in Markdown."""
    limited = [f"- {limit}" for limit in page.limits]
    parts = [
        page.description,
        "\n".join(f"- {sentence}" for sentence in page.sentences),
        "\n".join(["Not shown:", "", *limited]) if limited else "",
        markdown(page.tables[:1], page.rows),
    ]
    return "\n\n".join(filter(None, parts))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
