"""The notebooks run, and say what their stored outputs say."""

import json
from pathlib import Path

import pytest

from scripts.run_notebooks import FOLDER, run, texts


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_gives_its_stored_outputs(path: Path) -> None:
    stored = json.loads(path.read_text())
    assert texts(run(path)) == texts(stored), "python scripts/run_notebooks.py writes the outputs anew"
    assert any("image/png" in one.get("data", {}) for cell in stored["cells"] for one in cell.get("outputs", []))


def test_a_cell_that_fails_fails_the_notebook(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "source": ["x = 1\n", "x / 0"], "outputs": []}
    path = tmp_path / "bad.ipynb"
    path.write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(ZeroDivisionError):
        run(path)


def test_outputs_are_what_is_printed_and_the_last_value(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "source": [source], "outputs": []} for source in ("x = 2; print('one')", "x + 1", "x;")
    ]
    path = tmp_path / "good.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert texts(run(path)) == [["one\n"], ["3"], []]
