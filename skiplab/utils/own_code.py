"""Hashes of the user's own source code, which changes without a version number."""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import MappingProxyType
from typing import Any

_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))


@cache
def own_code(module: str, package: str) -> Mapping[str, str]:
    """Hashes of a user's module and of all user modules that it imports, by name; comments and docstrings do not count.

    A user module belongs to `package`, or is neither installed nor skiplab's. For any other module, or one without a
    source file, the mapping is empty.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and (path := _source(name, package)) is not None:
            tree = ast.parse(path.read_bytes())
            found[name] = _digest(tree)
            waiting += _imported(tree, name, is_package=path.name == "__init__.py")
    return MappingProxyType(found)


def _source(name: str, package: str) -> Path | None:
    """The source file of a user module; None for any other name. Nothing is imported."""
    top, *inner = name.split(".")
    if top in ("", "skiplab", "__main__") or top in sys.stdlib_module_names:
        return None
    spec = find_spec(top)
    if spec is None or (top != package and _is_installed(spec)):
        return None
    for place in range(1, len(inner) + 1):
        # A module, or a name in it: not a package.
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join([top, *inner[:place]]), spec.submodule_search_locations)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _is_installed(spec: ModuleSpec) -> bool:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return any(Path(place).resolve().is_relative_to(folder) for place in places for folder in _INSTALLED)


def _digest(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        body: Any = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            body[:1] = [] if body[1:] else [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """The names that a module imports; those of functions and classes among them."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
