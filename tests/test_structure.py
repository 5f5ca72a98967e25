"""The project's own rules: the order of imports, sizes of files and functions, the README's commands."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A package may import only from those before it.
PACKAGES = (
    "utils", "kernels", "schedules", "engine", "backbones", "data", "methods", "training", "benchmarking", "evaluation",
    "export", "hf", "serve", "lm_eval", "reporting", "comparison", "search", "jobs", "run",
)  # fmt: skip
CORE = PACKAGES[: PACKAGES.index("methods") + 1]
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


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "skiplab").parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_every_module_belongs_to_a_package() -> None:
    assert {package_of(path) for path in modules()} == set(PACKAGES)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_order_of_packages(path: Path) -> None:
    for name in imports(path):
        package, _, rest = name.partition(".")
        assert package not in ("baselines", "tests"), f"{path.name} imports {name}"
        if package == "skiplab":
            target = rest.split(".")[0]
            assert PACKAGES.index(target) <= PACKAGES.index(package_of(path)), f"{path.name} imports {name}"


def test_there_are_no_import_cycles() -> None:
    names = {module_of(path) for path in modules()}
    graph = {
        module_of(path): {
            target
            for name in imports(path)
            for target in (name, name.rpartition(".")[0])
            if target in names and target != module_of(path)
        }
        for path in modules()
    }
    TopologicalSorter(graph).prepare()


def test_only_store_and_tracker_import_mlflow() -> None:
    found = {module_of(path) for path in modules() if any(name.split(".")[0] == "mlflow" for name in imports(path))}
    assert found == {"skiplab.reporting.mlflow_store", "skiplab.reporting.mlflow_tracker"}


@pytest.mark.parametrize("path", [path for path in modules() if package_of(path) in CORE], ids=lambda path: path.stem)
def test_core_modules_import_heavy_libraries_late(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & LATE


def test_the_engine_needs_only_torch_and_transformers() -> None:
    blocked = sorted(LATE | {"lightning"})
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
        "import skiplab.engine.decode, skiplab.methods.losses"
    )
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], cwd=ROOT, check=True)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", [*modules(), *(ROOT / "baselines").glob("*.py")], ids=lambda path: path.stem)
def test_files_functions_and_parameter_lists_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    for function in functions(path):
        assert (function.end_lineno or 0) - function.lineno < 50, function.name
        # Triton kernels take each pointer and size as a separate parameter.
        if path.name != "triton_ops.py":
            named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            assert len([one for one in named if one.arg not in ("self", "cls")]) <= 8, function.name


MUTATORS = {"append", "extend", "insert", "add", "update", "pop", "popitem", "setdefault", "clear", "remove", "discard"}


def mutated_globals(path: Path) -> Iterator[str]:
    """Module-level names that functions of the module rebind or change in place."""
    tree = ast.parse(path.read_text())
    bound = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in (inner for function in functions(path) for inner in ast.walk(function)):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield from {node.value.id} & bound if isinstance(node.value, ast.Name) else ()
        elif isinstance(node, ast.Attribute) and node.attr in MUTATORS and isinstance(node.value, ast.Name):
            yield from {node.value.id} & bound


def test_only_registries_are_module_level_state() -> None:
    found = {name for path in [*modules(), *(ROOT / "baselines").glob("*.py")] for name in mutated_globals(path)}
    assert found == {"CONFIDENCE_MEASURES"}


REGISTRIES = {"ADAPTERS", "CONFIDENCE_MEASURES", "DECAYS", "FORMATS", "HORIZONS", "READERS"}


def test_other_tables_of_a_module_are_read_only() -> None:
    found = {
        name
        for path in [*modules(), *(ROOT / "baselines").glob("*.py")]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if (name := ast.unparse(target)) != "__all__"
    }
    assert found == REGISTRIES


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
