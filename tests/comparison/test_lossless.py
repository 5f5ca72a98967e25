"""A comparison of drafters."""

import json
from pathlib import Path

import pytest

from skiplab.jobs.compare import compare
from tests.comparison.small import small_config

FEW = ("~methods.any_plan", "~methods.layerskip", "~methods.exit", "~methods.skip", "speedups=[2]", "tracking.uri=null")


@pytest.mark.parametrize("generation", ["greedy", "skipdecode_paper"])
def test_drafted_outputs_are_full_depths(tmp_path: Path, generation: str) -> None:
    assert compare(small_config(tmp_path, *FEW, f"generation={generation}", experiment="lossless"), tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    drafted = [row for row in rows if row["method"] == "speculative"]
    assert drafted
    assert all(row["equal_outputs"] == 1 for row in drafted)
    assert all("equal_outputs" not in row for row in rows if row["method"] != "speculative")
