"""The documentation's site builds without a warning."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings_handlers") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(
    bool(MISSING), reason=f"without {', '.join(MISSING)}; pip install -e '.[docs]', mkdocs build --strict"
)
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "reference" / "schedules" / "index.html").read_text()
    assert "solve_schedule" in page
    assert "target_speedup" in page
    assert "paired_differences" in (tmp_path / "site" / "reference" / "evaluation" / "index.html").read_text()
    assert "DraftCounts" in (tmp_path / "site" / "reference" / "engine" / "index.html").read_text()
    assert "LiveRows" in (tmp_path / "site" / "reference" / "modules" / "skiplab.engine" / "index.html").read_text()
    assert "trainer.batch_size" in (tmp_path / "site" / "configuration_values" / "index.html").read_text()
