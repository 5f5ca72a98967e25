"""The keys of result rows, and the result files of a job: `results.json` and `results.csv`."""

import csv
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from skiplab.reporting.vocabulary import FIGURES
from skiplab.utils.files import write_text
from skiplab.utils.suggestions import did_you_mean

SCHEMA = 1

Row = dict[str, Any]


def check_row(row: Mapping[str, Any]) -> None:
    """Refuse a result row with unknown figures, or with figures that are not finite numbers.

    Raises:
        ValueError: the message names the key.
    """
    for key in ("method", "setting", "seed"):
        if key not in row:
            raise ValueError(f"a result row needs {key!r}, got {sorted(row)}")
    _check_figures(row, FIGURES.row_keys())


def _check_figures(row: Mapping[str, Any], known: Collection[str]) -> None:
    for key, value in row.items():
        if key not in known:
            raise ValueError(f"{key!r} is not in the results vocabulary{did_you_mean(key, known)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key!r} is {value}; leave out what was not measured")


def write_results(
    folder: Path,
    *,
    job: str,
    experiment: str,
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    summary: Sequence[Row] = (),
) -> None:
    """Write `results.json` and `results.csv` into a run folder, each in one piece.

    Args:
        summary: rows of `summary.summarise`, only for `results.json`.
    """
    for row in rows:
        check_row(row)
    for row in summary:
        _check_figures(row, FIGURES.summary_keys())
    content = {
        "schema": SCHEMA,
        "job": job,
        "experiment": experiment,
        "environment": dict(environment),
        "rows": list(rows),
        **({"summary": list(summary)} if summary else {}),
    }
    write_text(folder / "results.json", json.dumps(content, indent=2) + "\n")
    write_text(folder / "results.csv", _csv(rows))


def _csv(rows: Sequence[Row]) -> str:
    present = {key for row in rows for key in row}
    columns = [key for key in FIGURES.row_keys() if key in present]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()})
    return text.getvalue()
