"""Pages of the documentation's site that are made from other files: all configuration values, and the notebooks."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
# Groups of files, in the order of the page, with a heading and what chooses one.
_GROUPS = (
    ("trainer", "Trainers", "trainer=NAME"),
    ("backbone", "Backbones", "backbone=NAME"),
    ("data", "Data", "data=NAME"),
    ("generation", "How tokens are chosen", "generation=NAME"),
    ("tracking", "Tracking", "tracking=NAME"),
    ("method", "Methods", "method=NAME, or +method@methods.NAME=NAME"),
    ("search", "Searches", "the section search of experiment=search_schedule"),
    ("experiment", "Experiments", "experiment=NAME"),
)
# Groups whose files hold the keys of a section, without its name.
_SECTIONS = ("trainer", "generation", "tracking", "search", "method")
_INTRODUCTION = """# All configuration values

Every value of the files under `experiments/`, with what the file or the class behind it says of it. \
`key=value` on the command line overrides a value; a key without a value here is left at its class's default, and is \
set with `+key=value`. [Configuration](configuration.md) says which value takes precedence. \
`--cfg job` prints the values of a command without running it.
"""


@dataclass(frozen=True)
class Value:
    """One line of the page."""

    key: str
    value: str
    meaning: str


def configuration_page(root: Path = ROOT) -> str:
    """The page of all configuration values, in Markdown."""
    folder = root / "experiments"
    parts = [_INTRODUCTION, "## Every experiment\n", _table(values(folder / "config.yaml", root=root))]
    for group, title, how in _GROUPS:
        parts.append(f"## {title}\n\n`{how}`\n")
        for path in sorted((folder / group).glob("*.yaml")):
            parts.append(f"### {group}: {path.stem}\n\n{_introduced(path.read_text())}\n")
            prefix = f"{group}." if group in _SECTIONS else ""
            found = values(path, prefix, root)
            if group == "backbone" and found and not found[0].key.startswith("backbone."):
                found = values(path, "backbone.", root)
            parts.append(_table(found))
    return "\n".join(parts)


def values(path: Path, prefix: str = "", root: Path = ROOT) -> list[Value]:
    """The values of a configuration file, in its order, with their comments.

    Args:
        prefix: of the keys, such as `trainer.`.
        root: the folder that holds the packages that `_target_` names.
    """
    text = path.read_text()
    return list(_values(yaml.compose(text), text.splitlines(), prefix, root))


def _values(node: Any, lines: list[str], prefix: str, root: Path) -> Iterator[Value]:
    if not isinstance(node, yaml.MappingNode):
        return
    entries = {key.value: (key, value) for key, value in node.value}
    documented = _documented(entries["_target_"][1].value, root) if "_target_" in entries else {}
    documented = {name: _as_yaml(meaning) for name, meaning in documented.items()}
    for name, (key, value) in entries.items():
        if name in ("defaults", "description", "hydra", "_target_"):
            continue
        comment = _comment(lines, key.start_mark.line)
        # The first comment of a file is about the file, unless it stands after `@package`'s section has begun.
        if _is_heading(lines, key.start_mark.line):
            comment = ""
        nested = isinstance(value, yaml.MappingNode) and bool(value.value)
        if comment or not nested:
            shown = "" if nested else _source(value, lines)
            yield Value(prefix + name, shown, comment or documented.get(name, ""))
        if nested:
            yield from _values(value, lines, f"{prefix}{name}.", root)
    for name, meaning in documented.items():
        if name not in entries:
            yield Value(prefix + name, "", meaning)


def _as_yaml(meaning: str) -> str:
    """A docstring's sentence, with YAML's words for Python's."""
    for word, other in (("None", "null"), ("True", "true"), ("False", "false")):
        meaning = re.sub(rf"\b{word}\b", other, meaning)
    return meaning[:1].upper() + meaning[1:]


def _comment(lines: list[str], line: int) -> str:
    """The comment directly above a line, at the same depth."""
    depth = len(lines[line]) - len(lines[line].lstrip())
    above = takewhile(lambda one: one.startswith(" " * depth + "#"), reversed(lines[:line]))
    return " ".join(one.strip().lstrip("# ") for one in reversed(list(above)) if "@package" not in one)


def _is_heading(lines: list[str], line: int) -> bool:
    return all(one.startswith("#") for one in lines[:line])


def _source(node: Any, lines: list[str]) -> str:
    """A value as its file has it, in one line; a list of one item a line has brackets instead of dashes."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return f"[{', '.join(_source(item, lines) for item in node.value)}]"
    text = "\n".join(lines)[node.start_mark.index : node.end_mark.index]
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return " ".join(" ".join(kept).split())


def _introduced(text: str) -> str:
    """What a file says of itself, and which files it builds on."""
    content = yaml.safe_load(text) or {}
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    said = content.get("description") or comment
    said = f"{said[:1].upper()}{said[1:].rstrip('.')}." if said else ""
    parents = [one for one in content.get("defaults", []) if isinstance(one, str) and one != "_self_"]
    methods = [value for one in content.get("defaults", []) if isinstance(one, dict)
               for key, value in one.items() if key.startswith("/method@")]  # fmt: skip
    if parents:
        said += f" Builds on {', '.join(f'`{one}`' for one in parents)}."
    if methods:
        said += f" Methods: {', '.join(f'`{one}`' for one in methods)}."
    target = content.get("_target_") or next(
        (one["_target_"] for one in content.values() if isinstance(one, dict) and "_target_" in one), None
    )
    return f"{said} Class: `{target}`." if target else said


def _table(found: list[Value]) -> str:
    if not found:
        return ""
    rows = [f"| `{one.key}` | {f'`{_cell(one.value)}`' if one.value else ''} | {_cell(one.meaning)} |" for one in found]
    return "\n".join(["| key | value | meaning |", "| --- | --- | --- |", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;") if "`" not in text else text.replace("|", r"\|")


@cache
def _documented(target: str, root: Path) -> Mapping[str, str]:
    """What the docstrings of a class and of its parents say of its parameters, read without importing it."""
    module, _, name = target.rpartition(".")
    path = root / f"{module.replace('.', '/')}.py"
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text())
    node = next((one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name), None)
    if node is None:
        return {}
    places = {alias.asname or alias.name: f"{one.module}.{alias.name}"
              for one in tree.body if isinstance(one, ast.ImportFrom) for alias in one.names}  # fmt: skip
    own = {key: text for key, text in _arguments(ast.get_docstring(node) or "").items() if key != "setup"}
    further = [base.id for base in node.bases if isinstance(base, ast.Name)]
    further += [one.value.id for one in node.body if isinstance(one, ast.Assign) and isinstance(one.value, ast.Name)
                and ast.unparse(one.targets[0]) == "keywords_of"]  # fmt: skip
    for base in further:
        own = {**_documented(places.get(base, f"{module}.{base}"), root), **own}
    return own


def _arguments(docstring: str) -> dict[str, str]:
    """The entries of a docstring's `Args`."""
    _, _, section = docstring.partition("Args:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        if entry := re.fullmatch(r" {4}(\w+(?:, \w+)*): (.*)", line):
            names = entry[1].split(", ")
            found.update(dict.fromkeys(names, entry[2]))
        elif names and line.startswith(" " * 8):
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
        elif line:
            break
    return found


def notebook_page(path: Path) -> str:
    """A notebook as a page in Markdown, with its outputs."""
    cells = json.loads(path.read_text())["cells"]
    parts = [_markdown(cell) for cell in cells]
    return "\n\n".join([*parts, f"This page is the notebook [{path.name}]({path.name}).", ""])


def _markdown(cell: Mapping[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            image = "".join(data["image/png"]).replace("\n", "")
            parts.append(f"![Plot](data:image/png;base64,{image})")
        else:
            text = "".join(output["text"] if output["output_type"] == "stream" else data["text/plain"])
            parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)
