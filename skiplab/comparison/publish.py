"""What a comparison leaves for people: files in its run folder, runs and artifacts in MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from skiplab.comparison.prepare import Prepared
from skiplab.data.module import Item, TextData
from skiplab.evaluation.generate import Generation
from skiplab.reporting import html, mlflow_store, plots
from skiplab.reporting.results import Row
from skiplab.reporting.tables import Table, markdown, notes
from skiplab.reporting.tables import tables as comparison_tables
from skiplab.utils.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DESCRIBED = ("backbone", "trainer", "base", "speedups", "seeds", "limit", "benchmark")


def describe(config: Mapping[str, Any], data: TextData, environment: Mapping[str, Any]) -> None:
    """Configuration, environment and data sets of the active run."""
    described = {key: config[key] for key in _DESCRIBED} | {"environment": environment}
    mlflow_store.log_params({"data": data.source.name, **_flat(described)})
    for split, context in (("train", "training"), ("test", "testing")):
        mlflow_store.log_dataset(data.splits[split], f"{data.source.name} {split}", context)


def track_outputs(row: Row, outputs: Generation, full: Generation, items: Sequence[Item], count: int = 50) -> None:
    """A setting's figures, its depth by step, and its first outputs beside the full model's, to the active run."""
    mlflow_store.log_figures(row)
    mlflow_store.log_series("depth", outputs.depth_by_step())
    mlflow_store.log_table(
        {
            "prompt": [item.prompt for item in items[:count]],
            "output": outputs.texts[:count],
            "full model": full.texts[:count],
            "reference": [item.references[0] for item in items[:count]],
        },
        "outputs.json",
    )


def track_timing(run_id: str | None, part: Mapping[str, Any]) -> None:
    """A setting's speed at one batch size to its run."""
    group = f"batch{part['row']['batch_size']}/"
    mlflow_store.log_figures(part["row"], group=group, run_id=run_id)
    mlflow_store.log_series(f"{group}step_ms", part["step_ms"], first_step=1, run_id=run_id)


def figures(
    records: Mapping[str, Mapping[str, Any]],
    summary: Sequence[Row],
    timing: Mapping[str, Any],
    layers: Mapping[str, Any] | None,
) -> "dict[str, Figure]":
    """A comparison's plots.

    Args:
        records: finished settings by key.
        layers: where the time of decode steps goes, layer by layer, by setting's label.
    """
    found = plots.figures(plots.curves(summary, records, timing))
    return {**found, "ms_by_layer": plots.layer_figure(layers)} if layers else found


def page(
    prepared: Prepared,
    rows: Sequence[Row],
    summary: Sequence[Row],
    records: Sequence[Mapping[str, Any]],
    *,
    tables: Sequence[Table],
    figures: "Mapping[str, Figure]",
    environment: Mapping[str, Any],
) -> html.Page:
    """A comparison's report.

    Args:
        records: of finished settings.
        tables: shown behind the comparison's own.
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


def publish(folder: Path, page: html.Page) -> None:
    """Report, plots and configuration to the run folder; these and the results to the active run."""
    write_text(folder / "report.html", html.html(page))
    write_text(folder / "config.yaml", page.config)
    for name, figure in page.figures.items():
        path = folder / "plots" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=150)
        mlflow_store.log_file(path, "plots")
    for name in ("report.html", "results.json", "results.csv", "config.yaml"):
        mlflow_store.log_file(folder / name)
    mlflow_store.set_note(f"{page.description}. Task: {page.task}.\n\n{markdown(page.tables[:1], page.rows)}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
