"""The types, by pyright: a test, so that it runs beside the others and its findings are shown as theirs are."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(900)
def test_types_fit() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
