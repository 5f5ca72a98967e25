"""Human-readable outputs of a comparison: files in its run folder, runs and artifacts in MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from skiplab.comparison.prepare import Prepared
from skiplab.data.module import Item, TextData
from skiplab.evaluation.generate import Generation
from skiplab.reporting import html, plots
from skiplab.reporting.record import Record, Timing
from skiplab.reporting.results import Row
from skiplab.reporting.tables import Table, markdown, notes
from skiplab.reporting.tables import tables as comparison_tables
from skiplab.reporting.tracker import Tracker
from skiplab.utils.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def figures(records: Sequence[Record], summary: Sequence[Row], layers: Mapping[str, Any] | None) -> "dict[str, Figure]":
    """A comparison's plots.

    Args:
        records: finished settings.
        layers: time of decode steps by layer, by the setting's label.
    """
    found = plots.figures(plots.curves(summary, records))
    return {**found, "ms_by_layer": plots.layer_figure(layers)} if layers else found


def page(
    prepared: Prepared,
    rows: Sequence[Row],
    summary: Sequence[Row],
    records: Sequence[Record],
    *,
    tables: Sequence[Table],
    figures: "Mapping[str, Figure]",
    environment: Mapping[str, Any],
) -> html.Page:
    """A comparison's report.

    Args:
        records: finished settings.
        tables: further tables, shown after the comparison's own.
    """
    config, data = prepared.config, prepared.data
    return html.Page(
        title=config.tracking.experiment,
        description="; ".join(filter(None, [config.description, *prepared.notes])),
        task=data.source.name,
        rows=rows,
        tables=[*comparison_tables(rows, summary), *tables],
        figures=figures,
        samples=html.samples(data.items("test"), records, count=5),
        environment=environment,
        config=OmegaConf.to_yaml(OmegaConf.create(config.plain)),
        notes=notes(rows),
    )


def publish(tracker: Tracker, folder: Path, page: html.Page) -> None:
    """Write report, plots and configuration to the run folder, and log these and the results to the active run."""
    write_text(folder / "report.html", html.html(page))
    write_text(folder / "config.yaml", page.config)
    for name, figure in page.figures.items():
        path = folder / "plots" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        # The HTML page has laid it out already.
        figure.set_layout_engine("none")
        figure.savefig(path, dpi=150)
        tracker.log_file(path, "plots")
    for name in ("report.html", "results.json", "results.csv", "config.yaml"):
        tracker.log_file(folder / name)
    tracker.set_note(f"{page.description}. Task: {page.task}.\n\n{markdown(page.tables[:1], page.rows)}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
