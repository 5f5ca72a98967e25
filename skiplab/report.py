"""A comparison for people: a table on the console and in Markdown, and one self-contained page."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from skiplab.results import VOCABULARY, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from skiplab.data.module import Item

_CONSOLE = {
    "layer_speedup": "layer\nspeedup",
    "bleu": "BLEU",
    "slot_accuracy": "slot\nacc.",
    "agreement": "agree-\nment",
}
_FORMATS: dict[str, tuple[str, str]] = {
    "threshold": ("threshold", "{:.3f}"),
    "layer_speedup": ("layer speedup", "{:.2f}x"),
    "bleu": ("BLEU", "{:.1f}"),
    "rouge_l": ("ROUGE-L", "{:.3f}"),
    "slot_accuracy": ("slot acc.", "{:.3f}"),
    "agreement": ("agreement", "{:.3f}"),
    "perplexity": ("perplexity", "{:.3f}"),
}
_SPEEDS: dict[str, tuple[str, str, float]] = {
    "step_layer_speedup": ("layer speedup of the timed steps", "{:.2f}x", 1.0),
    "decode_speedup": ("decode speedup", "{:.2f}x", 1.0),
    "decode_tokens_per_s": ("tokens/s", "{:,.0f}", 1.0),
    "prefill_ms": ("prefill ms", "{:.1f}", 1.0),
    "kv_bytes": ("KV KiB", "{:,.0f}", 1 / 1024),
}


@dataclass(frozen=True)
class Table:
    """Formatted cells, one line per setting and seed.

    Attributes:
        errors: by line, why a setting has no figures.
    """

    title: str
    header: list[str]
    lines: list[list[str]]
    errors: dict[int, str]


def by_setting(rows: Sequence[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """The rows of each method, setting and seed: one per timed batch size."""
    settings: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        settings.setdefault((row["method"], row["setting"], row["seed"]), []).append(row)
    return settings


def tables(rows: Sequence[Row]) -> list[Table]:
    """A comparison's rows laid out for reading: quality, then speed by batch size."""
    settings = by_setting(rows)
    batches = sorted({row["batch_size"] for row in rows if "batch_size" in row})
    many_seeds = len({seed for _, _, seed in settings}) > 1
    figures = [key for key in _FORMATS if any(key in row for row in rows)]
    head = ["method", "setting", *(["seed"] if many_seeds else [])]
    quality = Table("Quality", head + [_FORMATS[key][0] for key in figures], [], {})
    columns = [(key, batch) for key in _SPEEDS for batch in batches]
    speed = Table("Speed", head + [f"{_SPEEDS[key][0]}, batch {batch}" for key, batch in columns], [], {})
    for number, ((method, setting, seed), members) in enumerate(settings.items()):
        by_batch = {row.get("batch_size"): row for row in members}
        label = [method, setting, *([str(seed)] if many_seeds else [])]
        quality.lines.append(label + [_with_interval(members[0], key, _FORMATS[key][1]) for key in figures])
        speed.lines.append(label + [_speed(by_batch.get(batch, {}), key) for key, batch in columns])
        if "error" in members[0]:
            quality.errors[number] = speed.errors[number] = members[0]["error"]
    return [quality, speed]


def print_table(rows: Sequence[Row], console: "Console") -> None:
    """The main figures on the console, one line per setting; the report has them all."""
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(box=box.SIMPLE, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    batches = sorted({row["batch_size"] for row in rows if "batch_size" in row})
    many_seeds = len({row["seed"] for row in rows}) > 1
    columns = {key: name for key, name in _CONSOLE.items() if any(key in row for row in rows)}
    shown.add_column("method", no_wrap=True)
    for name in [*columns.values(), *(f"speedup\nbatch {batch}" for batch in batches)]:
        shown.add_column(name, justify="right")
    for members in by_setting(rows).values():
        row, by_batch = members[0], {row.get("batch_size"): row for row in members}
        speedups = [by_batch.get(batch, {}).get("decode_speedup") for batch in batches]
        figures = [_FORMATS[key][1].format(row[key]) if key in row else "" for key in columns]
        if "error" in row:
            figures = ["failed", *[""] * (len(columns) - 1)]
        speeds = [f"{value:.2f}x" if value is not None else "" for value in speedups]
        shown.add_row(_label(row, many_seeds), *figures, *speeds)
    console.print(shown)


def markdown(rows: Sequence[Row]) -> str:
    """The tables in Markdown without intervals, errors below them."""
    laid = tables(rows)
    parts = []
    for table in laid:
        plain = [[cell.split(" [")[0] for cell in line] for line in table.lines]
        parts.append(
            "\n".join(f"| {' | '.join(line)} |" for line in [table.header, ["---"] * len(table.header), *plain])
        )
    errors = [f"- {' '.join(laid[0].lines[number][:2])} failed: {error}" for number, error in laid[0].errors.items()]
    return "\n\n".join([*parts, *(["\n".join(errors)] if errors else [])])


def one_line(row: Row) -> str:
    """A finished setting in one line."""
    return ", ".join(f"{_FORMATS[key][0]} {_FORMATS[key][1].format(row[key])}" for key in _FORMATS if key in row)


@dataclass(frozen=True)
class Sample:
    """One test prompt with every setting's output."""

    prompt: str
    references: Sequence[str]
    outputs: dict[str, str]


def samples(items: Sequence["Item"], records: Mapping[str, Mapping[str, Any]], *, count: int) -> list[Sample]:
    """The first test items with the outputs of all finished settings, the full model's first."""
    many_seeds = len({record["row"]["seed"] for record in records.values()}) > 1
    return [
        Sample(
            item.prompt,
            item.references,
            {_label(record["row"], many_seeds): record["outputs"]["texts"][index] for record in records.values()},
        )
        for index, item in enumerate(items[:count])
    ]


@dataclass(frozen=True)
class Page:
    """What the report page shows."""

    title: str
    description: str
    task: str
    rows: Sequence[Row]
    figures: Mapping[str, "Figure"]
    samples: Sequence[Sample]
    environment: Mapping[str, Any]
    config: str


def html(page: Page) -> str:
    """One page that needs nothing beside itself: plots are inline SVG."""
    from jinja2 import Environment

    template = (files("skiplab") / "report.html.j2").read_text(encoding="utf-8")
    used = {key for row in page.rows for key in row}
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            page=page,
            tables=tables(page.rows),
            plots={name: _svg(figure) for name, figure in page.figures.items()},
            vocabulary={key: meaning for key, meaning in VOCABULARY.items() if key in used},
        )
    )


def _label(row: Row, many_seeds: bool) -> str:
    seed = f" seed {row['seed']}" if many_seeds else ""
    return f"{row['method']} {row['setting']}{seed}"


def _speed(row: Row, key: str) -> str:
    _, form, scale = _SPEEDS[key]
    return form.format(scale * row[key]) if key in row else ""


def _with_interval(row: Row, key: str, form: str) -> str:
    if key not in row:
        return ""
    text = form.format(row[key])
    bounds = row.get(f"{key}_ci95")
    return text if bounds is None else f"{text} [{', '.join(form.format(bound) for bound in bounds)}]"


def _svg(figure: "Figure") -> str:
    import matplotlib
    from markupsafe import Markup

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "skiplab"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])
