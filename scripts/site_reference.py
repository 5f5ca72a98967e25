"""Pages of the site with the docstrings of all modules that no page under `docs/reference` has."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("skiplab", "baselines")


def module_pages(root: Path = ROOT) -> dict[str, str]:
    """A page in Markdown for each package, by its dotted name."""
    written = set(re.findall(r"^::: (\S+)", "\n".join(page.read_text() for page in _pages(root)), re.MULTILINE))
    modules: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            if name not in written and not path.stem.startswith("__") and has_public_names(path.read_text()):
                modules[name.rpartition(".")[0]].append(name)
    return {package: _page(package, names) for package, names in sorted(modules.items())}


def has_public_names(source: str) -> bool:
    """Whether a module defines a class, function or constant whose name does not begin with an underscore."""
    names: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return any(not name.startswith("_") for name in names)


def _pages(root: Path) -> list[Path]:
    return sorted((root / "docs" / "reference").glob("*.md"))


def _page(package: str, names: list[str]) -> str:
    parts = [f"## `{name}`\n\n::: {name}\n    options: {{heading_level: 3}}\n" for name in names]
    return "\n".join([f"# {package}\n\nThe modules of `{package}` that have no place on another page.\n", *parts])
