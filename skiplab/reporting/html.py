"""A comparison's report: one self-contained HTML page."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from skiplab.reporting.record import Record
from skiplab.reporting.results import Row
from skiplab.reporting.tables import Table
from skiplab.reporting.vocabulary import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from skiplab.data.module import Item


@dataclass(frozen=True)
class Sample:
    """One test prompt with every setting's output."""

    prompt: str
    references: Sequence[str]
    outputs: dict[str, str]


def samples(items: Sequence["Item"], records: Sequence[Record], *, count: int) -> list[Sample]:
    """The first test items with the outputs of all finished settings at their first seed, the full model first."""
    outputs: dict[str, Sequence[str]] = {}
    for record in records:
        outputs.setdefault(record.entry.label, record.outputs.texts)
    return [
        Sample(item.prompt, item.references, {label: texts[index] for label, texts in outputs.items()})
        for index, item in enumerate(items[:count])
    ]


@dataclass(frozen=True)
class Page:
    """The contents of the report page.

    Attributes:
        notes: how to read the tables.
    """

    title: str
    description: str
    task: str
    rows: Sequence[Row]
    tables: Sequence[Table]
    figures: Mapping[str, "Figure"]
    samples: Sequence[Sample]
    environment: Mapping[str, Any]
    config: str
    notes: str


def html(page: Page) -> str:
    """One self-contained page with inline SVG plots."""
    from jinja2 import Environment

    template = (files("skiplab.reporting") / "report.html.j2").read_text(encoding="utf-8")
    used = {key for row in page.rows for key in row}
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            page=page,
            tables=page.tables,
            plots={name: _svg(figure) for name, figure in page.figures.items()},
            vocabulary={key: meaning for key, meaning in FIGURES.row_keys().items() if key in used},
        )
    )


def _svg(figure: "Figure") -> str:
    import matplotlib
    from markupsafe import Markup

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "skiplab"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])
