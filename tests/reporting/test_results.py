"""The keys of results, and the files with them."""

import csv
import json
from pathlib import Path

import pytest

from skiplab.reporting.results import check_row, write_results

ROW = {"method": "skipdecode", "setting": "3x", "seed": 0}


def test_files_hold_the_rows(tmp_path: Path) -> None:
    rows = [{**ROW, "bleu": 40.5, "bleu_ci95": [39.0, 42.0]}, {**ROW, "setting": "4x", "error": "ValueError: no"}]
    write_results(tmp_path, job="compare", experiment="x", environment={"cores": 2}, rows=rows)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content == {"schema": 1, "job": "compare", "experiment": "x", "environment": {"cores": 2}, "rows": rows}
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["setting"] for line in lines] == ["3x", "4x"]
    assert json.loads(lines[0]["bleu_ci95"]) == [39.0, 42.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"method": "x", "setting": "3x"}, "needs 'seed'"),
        ({**ROW, "blue": 1.0}, "'blue' is not in the results vocabulary; did you mean 'bleu'"),
        ({**ROW, "bleu": float("nan")}, "'bleu' is nan; leave out what was not measured"),
    ],
)
def test_rows_outside_the_vocabulary_are_refused(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_row(row)
