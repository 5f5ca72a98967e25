"""The notebooks run, and say what their stored outputs say."""

import json
from pathlib import Path

import pytest

from scripts.run_notebooks import FOLDER, run, texts

pytest.importorskip("nbclient", reason="without nbclient; pip install -e '.[docs]'")
pytest.importorskip("ipykernel", reason="without ipykernel; pip install -e '.[docs]'")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_gives_its_stored_outputs(path: Path) -> None:
    stored = json.loads(path.read_text())
    assert texts(run(path)) == texts(stored), "python scripts/run_notebooks.py writes the outputs anew"
    assert any("image/png" in one.get("data", {}) for cell in stored["cells"] for one in cell.get("outputs", []))
