"""Finished comparisons side by side on one page, from their result rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from skiplab.reporting.curves import Curve, series_styles
from skiplab.reporting.headline import Sentence, headline
from skiplab.reporting.headline_plot import headline_plot
from skiplab.reporting.html import Page
from skiplab.reporting.main_table import Line, MainTable, Own, Timed, anchors_of
from skiplab.reporting.plot_style import Plot
from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.standings import quality_of
from skiplab.reporting.tables import notes
from skiplab.reporting.twins import twins_of
from skiplab.reporting.vocabulary import FIGURES

_LIMITS = (
    "Speeds of different runs were not measured in interleaved rounds, so the machine may cause differences.",
    "Differences between the runs are not tested; intervals are those within each run.",
)
_SENTENCES = 2


@final
@dataclass(frozen=True)
class FinishedRun:
    """A finished comparison.

    Attributes:
        name: short, such as A.
        folder: of the run.
    """

    name: str
    folder: str
    experiment: str
    rows: Sequence[Row]
    summary: Sequence[Row]
    environment: Mapping[str, Any]

    @property
    def facts(self) -> tuple[str, str]:
        """Name and value for the page."""
        known = self.environment
        words = [self.folder, self.experiment, known.get("gpu") or known.get("cpu"), f"{known.get('threads')} threads"]
        if revision := known.get("git_revision"):
            words.append(f"revision {revision[:10]}")
        return f"run {self.name}", ", ".join(filter(None, words))


def side_by_side(runs: Sequence[FinishedRun]) -> Page:
    """A page with every setting of any of the runs in one line."""
    rows = [row for run in runs for row in run.rows]
    said = [
        Sentence((f"Run {run.name}: ", *sentence.parts))
        for run in runs
        for sentence in headline(run.rows, run.summary).sentences[:_SENTENCES]
    ]
    return Page(
        title=" beside ".join(f"{run.name}: {run.experiment}" for run in runs),
        description="Runs side by side; the page of each run has its other tables, plots and outputs.",
        facts=[run.facts for run in runs],
        warnings=_warnings(runs),
        sentences=said,
        limits=_LIMITS,
        picture=_picture(runs),
        results=_table(runs),
        rows=rows,
        tables=[],
        plots={},
        environment={f"run {run.name}": run.environment for run in runs},
        config="".join(f"{run.name}: {run.folder}/config.json\n" for run in runs),
        notes=notes(rows),
    )


def _quality(runs: Sequence[FinishedRun]) -> str | None:
    """The figure by which the first run's settings are judged, or the first that is plotted and that all runs have."""
    if (judged := quality_of(runs[0].summary)) is not None:
        return judged
    shared = set.intersection(*({key for row in run.summary for key in row} for run in runs))
    return next((figure.name for figure in FIGURES.shown("plot", shared)), None)


def _table(runs: Sequence[FinishedRun]) -> MainTable:
    settings = list(dict.fromkeys(Setting.of(row) for run in runs for row in run.summary))
    anchors = anchors_of(settings)
    quality, batch = _quality(runs), _shared_batch(runs)
    columns: list[tuple[str, Any, FinishedRun]] = []
    for name in (quality, "layer_speedup"):
        if name is not None:
            column = FIGURES[name].at("quality")
            columns += [(f"{column.label}, {run.name}", Own(name, column), run) for run in runs]
    if batch is not None:
        columns += [(f"decode speedup, batch {batch}, {run.name}", Timed(run.rows, batch), run) for run in runs]
    found = [{Setting.of(row): row for row in run.summary} for run in runs]
    by_run = dict(zip((run.name for run in runs), found, strict=True))
    lines = [
        Line(setting, anchors[setting], [make(by_run[run.name].get(setting, {})) for _, make, run in columns])
        for setting in settings
    ]
    return MainTable([name for name, *_ in columns], lines, anchors)


def _shared_batch(runs: Sequence[FinishedRun]) -> int | None:
    """The largest batch size that all runs timed; None if there is none."""
    sizes = [{row["batch_size"] for row in run.rows if "decode_speedup" in row} for run in runs]
    return max(set.intersection(*sizes), default=None)


def _picture(runs: Sequence[FinishedRun]) -> Plot | None:
    drawn = [
        Curve(
            series=f"{run.name}: {row['method']}",
            label=f"{run.name}: {Setting.of(row)}",
            row=row,
            depth_by_step=(),
            speeds={
                one["batch_size"]: one for one in run.rows if "batch_size" in one and Setting.of(one) == Setting.of(row)
            },
            step_ms={},
        )
        for run in runs
        for twins in [twins_of(run.summary)]
        for row in run.summary
        if Setting.of(row) not in twins
    ]
    quality = _quality(runs)
    plot = headline_plot(drawn, quality, series_styles(drawn)) if quality else None
    if plot is None:
        return None
    return replace(plot, sentence=plot.sentence.replace("the full model's", f"run {runs[0].name}'s full model's"))


def _warnings(runs: Sequence[FinishedRun]) -> list[str]:
    """What the runs do not share, so that their figures do not compare."""
    found = []
    for key, what in (("test_items", "test items"), ("parameters", "parameters")):
        values = [sorted({row[key] for row in run.rows if key in row}) for run in runs]
        if len({tuple(one) for one in values if one}) > 1:
            found.append(f"The runs differ in {what}: {' and '.join(str(one).strip('[]') for one in values)}.")
    for key, what in (("cpu", "processor"), ("gpu", "GPU"), ("threads", "threads")):
        machines = list(dict.fromkeys(str(run.environment.get(key)) for run in runs))
        if len(machines) > 1:
            found.append(f"The runs differ in {what}, so their speeds do not compare: {' and '.join(machines)}.")
    return found
