"""The project's own rules: what may import what, and what the README promises."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import only modules of its own floor or below.
FLOORS = {
    "schedule": 0, "files": 0, "batch": 0, "ranks": 0, "risk": 0, "significance": 0,
    "nested": 0, "schedule_file": 0, "search_space": 0, "budget_plan": 0, "pareto": 0,
    "gpu": 0, "gpu_kernels": 0,
    "policy": 1, "losses": 1, "out_of_memory": 1,
    "cache": 2, "backbone": 2, "backbones": 2,
    "prepack": 3, "lm_loss": 3, "forward": 3, "continuation": 3, "deferred": 3, "steps": 3, "batch_run": 3, "graphs": 3,
    "decode": 3, "gpu_layers": 3,
    "module": 4, "distillation": 4, "full": 4, "scheduled": 4, "skipdecode": 4, "data": 4, "metrics": 4,
    "once_for_all": 4,
    "evaluate": 5, "bertscore": 5, "consistency": 5, "calibration": 5, "training": 5, "saved": 5, "weights": 5,
    "checkpoints": 5, "curves": 5,
    "cost": 5, "cost_model": 5, "benchmark": 5, "layer_times": 5, "ceilings": 5, "throughput": 5, "peers": 5,
    "formats": 5, "memory": 5, "step_profile": 5, "environment": 5, "quiet": 5, "served": 5,
    "depth_profile": 5, "plan_svg": 5, "rank_correlation": 5, "search_plots": 5, "study": 5,
    "results": 5, "run_folder": 5, "summary": 5, "tables": 5, "plots": 5, "report": 5, "tracking": 5,
    "jobs": 6, "launch": 6,
    "run": 7,
}  # fmt: skip
CORE = [name for name, floor in FLOORS.items() if floor <= 4]
LATE = {"hydra", "omegaconf", "mlflow", "optuna", "matplotlib", "datasets", "sacrebleu", "torchmetrics", "rich"}


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> list[Path]:
    return [path for path in (ROOT / "skiplab").rglob("*.py") if path.name != "__init__.py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "skiplab").parts[0].removesuffix(".py")


def test_every_module_has_a_floor() -> None:
    assert {name_of(path) for path in modules()} == set(FLOORS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    for name in imports(path):
        package, _, rest = name.partition(".")
        assert package not in ("baselines", "tests"), f"{path.name} imports {name}"
        if package == "skiplab":
            target = rest.split(".")[0]
            assert FLOORS.get(target, 0) <= FLOORS[name_of(path)], f"{path.name} imports {name}"


def test_only_tracking_imports_mlflow() -> None:
    found = {name_of(path) for path in modules() if any(name.split(".")[0] == "mlflow" for name in imports(path))}
    assert found == {"tracking"}


@pytest.mark.parametrize("path", [path for path in modules() if name_of(path) in CORE], ids=lambda path: path.stem)
def test_core_modules_import_heavy_libraries_late(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & LATE


def test_the_engine_imports_with_torch_and_transformers_alone() -> None:
    blocked = sorted(LATE | {"lightning"})
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import skiplab.decode, skiplab.losses"
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], cwd=ROOT, check=True)


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- (run|test) -->\n```sh\n(.*?)\n```", readme, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["run", "test"]
    assert "pytest" in dict(blocks)["test"]
    assert "experiment=compare_calm" in dict(blocks)["run"]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_every_method_file_names_its_class_and_says_what_it_is() -> None:
    for path in (ROOT / "experiments" / "method").iterdir():
        assert path.read_text().startswith("# "), f"{path.name} begins with a comment that says what it is"


def test_the_example_of_a_baseline_is_the_repositorys_own() -> None:
    page = (ROOT / "docs" / "adding_a_baseline.md").read_text()
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", page, re.DOTALL)
    files = ("baselines/shallow.py", "experiments/method/shallow.yaml")
    assert [text for _, text in blocks] == [(ROOT / file).read_text() for file in files]
