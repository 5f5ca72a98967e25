"""A job's report: one self-contained HTML page."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, final

from skiplab.reporting.headline import Sentence
from skiplab.reporting.main_table import MainTable
from skiplab.reporting.plot_style import Plot
from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.samples import Sample
from skiplab.reporting.svg import inline
from skiplab.reporting.tables import Table, slug
from skiplab.reporting.vocabulary import FIGURES

if TYPE_CHECKING:
    from markupsafe import Markup

SHOWN_SAMPLES = 5
"""Samples on the page before more are asked for."""


@final
@dataclass(frozen=True)
class Page:
    """The contents of the report page.

    Attributes:
        facts: on backbone, task, machine and the like, name and value.
        commands: that make the run or the page again, with what each makes.
        warnings: that stand above the sentences.
        sentences: what was found.
        limits: what was not.
        picture: the one plot that stands first.
        results: the table that stands first; without it the first of `tables` does.
        plots: further ones by name.
        notes: how to read the tables.
    """

    title: str
    description: str
    facts: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    tables: Sequence[Table]
    plots: Mapping[str, Plot]
    environment: Mapping[str, Any]
    config: str
    notes: str
    commands: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()
    sentences: Sequence[Sentence] = ()
    limits: Sequence[str] = ()
    picture: Plot | None = None
    results: MainTable | None = None
    samples: Sequence[Sample] = field(default=())


def html(page: Page) -> str:
    """One self-contained page with inline SVG plots; its own script is the only one that a browser runs."""
    from jinja2 import Environment
    from markupsafe import Markup

    script = _part("report.js")
    used = {key for row in page.rows for key in row}
    anchors = page.results.anchors if page.results else {}
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(_part("report.html.j2"))
        .render(
            page=page,
            style=Markup(_part("report.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            picture=_drawn(page.picture, "picture") if page.picture else None,
            plots={name: (plot, _drawn(plot, f"plot-{name}")) for name, plot in page.plots.items()},
            parts=[[_linked(part, anchors) for part in sentence.parts] for sentence in page.sentences],
            notes=_with_code(page.notes),
            shown_samples=SHOWN_SAMPLES,
            slug=slug,
            vocabulary={key: meaning for key, meaning in FIGURES.row_keys().items() if key in used},
        )
    )


def _drawn(plot: Plot, name: str) -> "list[tuple[str, Markup]]":
    """A plot as SVG, once or for wide and narrow windows, each with its class on the page."""
    wide = inline(plot.figure, plot.title, name)
    if plot.narrow is None:
        return [("plot", wide)]
    return [("plot wide", wide), ("plot narrow", inline(plot.narrow, plot.title, f"{name}-narrow"))]


def _linked(part: Any, anchors: Mapping[Setting, str]) -> tuple[str, str | None]:
    """A sentence's part as text, with the id of the row that it links to."""
    if isinstance(part, Setting):
        return str(part), anchors.get(part)
    return part if isinstance(part, str) else part.text, None


def _with_code(text: str) -> "Markup":
    """A text with what stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _part(name: str) -> str:
    return (files("skiplab.reporting") / name).read_text(encoding="utf-8")
