"""A baseline in two files outside the repository, as docs/adding_a_baseline.md shows it."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.comparison.small import SIZE, SMALL_TASK
from tests.forked_run import output, start
from tests.pages import write_files

PAGE = (Path(__file__).parents[1] / "docs" / "adding_a_baseline.md").read_text()
FEW = (
    "hydra.run.dir=outputs/compare_calm", "limit=8", "speedups=[2]", "benchmark.batch_sizes=[]",
    "~methods.multi_layer", "~methods.calm", "~methods.skipdecode_calibrated", "~methods.calm_calibrated",
)  # fmt: skip


def commands() -> list[str]:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [line.removeprefix("python ") for line in block.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two files from the page."""
    home = tmp_path_factory.mktemp("own")
    write_files(PAGE, home)
    return home


@pytest.fixture(scope="module")
def results(home: Path) -> list[dict[str, object]]:
    """Rows of the comparison of the baseline with the full model and SkipDecode."""
    module, *given = commands()[1].removeprefix("-m ").split()
    assert module == "skiplab.run"
    # Forked, to save the time of imports; the baseline's package is imported in the child only.
    assert start(home, *given, *SIZE, *SMALL_TASK, *FEW).wait() == 0, output(home)
    return json.loads((home / "outputs" / "compare_calm" / "results.json").read_text())["rows"]


def test_the_baseline_has_its_own_row(results: list[dict[str, object]]) -> None:
    found = {(row["method"], row["setting"]) for row in results if "error" not in row}
    assert {("full", "1x"), ("skipdecode", "2x"), ("label_smoothing", "2x")} <= found


def test_the_baseline_is_trained_and_cached_apart_from_skipdecode(home: Path, results: list[dict[str, object]]) -> None:
    depth = {row["method"]: row["target_speedup"] for row in results if row["setting"] == "2x"}
    assert depth["label_smoothing"] == depth["skipdecode"] == 2
    # The further training of the full model, and the trainings of SkipDecode and the baseline.
    folders = sorted((home / "cache").glob("method-*/model.safetensors"))
    assert len(folders) == 3
    weights = [load_file(file) for file in folders]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert weights[one].keys() == weights[other].keys()
        assert not all(torch.equal(weights[one][name], weights[other][name]) for name in weights[one])
