"""What a user can name on the command line, with a line each: `skiplab list`. It imports no torch.

Only the metrics need the registry of figures, whose import takes seconds; they are listed last.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from skiplab.comparison.config_base import ConfigurationError
from skiplab.utils.suggestions import suggestion

# Kinds of names, with the group of Hydra that holds their files.
_GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "experiments": "experiment",
        "methods": "method",
        "backbones": "backbone",
        "data": "data",
        "trainers": "trainer",
        "generation": "generation",
        "tracking": "tracking",
    }
)
KINDS = (*_GROUPS, "metrics")
"""What can be listed."""


def experiments() -> dict[str, str]:
    """Each experiment's name and its description."""
    return choices("experiment")


def choices(group: str, *folders: Path) -> dict[str, str]:
    """The names of a group of the configuration, with their descriptions.

    Args:
        group: of Hydra, such as `method`.
        folders: further folders of configuration, such as `--config-dir` names. They precede the package's own.
    """
    roots: list[Traversable] = [*folders, files("experiments")]
    found: dict[str, str] = {}
    for root in roots:
        if not (root / group).is_dir():
            continue
        for entry in (root / group).iterdir():
            if entry.name.endswith(".yaml"):
                found.setdefault(entry.name.removesuffix(".yaml"), described(entry.read_text()))
    return dict(sorted(found.items()))


def described(yaml: str) -> str:
    """What a configuration file says of itself: its `description`, else the first sentence of its first comment."""
    content: Any = OmegaConf.create(yaml)
    if "description" in content:
        return content["description"]
    return _first_comment(yaml).partition(". ")[0].rstrip(".")


def _first_comment(yaml: str) -> str:
    lines = [line for line in yaml.splitlines() if not line.startswith("# @package")]
    return " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))


def metrics() -> dict[str, str]:
    """Each built-in metric's name and its meaning: the figures of which lower or higher is better."""
    from skiplab.reporting.vocabulary import FIGURES

    return {figure.name: f"{figure.meaning} ({figure.sense})" for figure in FIGURES if figure.sense is not None}


def lines(kind: str, names: Mapping[str, str]) -> list[str]:
    """A heading that says how the names are given, then a line for each name."""
    how = "names in results, searches and calibrations" if kind == "metrics" else f"{_GROUPS[kind]}=NAME"
    width = max(map(len, names), default=0)
    return [f"{kind}: {how}", *(f"  {name:{width}}  {text}".rstrip() for name, text in names.items())]


def list_names(arguments: Sequence[str], show: Callable[[str], object]) -> None:
    """`skiplab list [KIND ...] [--config-dir DIR]`.

    Args:
        arguments: those after `list`.
        show: is called with each line.

    Raises:
        ConfigurationError: a kind is unknown, or the folder does not exist.
        SystemExit: the arguments ask for help, or are none of this command.
    """
    parser = argparse.ArgumentParser("skiplab list", description="list what can be named, with a line each")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; all of them by default")
    parser.add_argument("--config-dir", type=Path, help="a folder with configuration of your own")
    options = parser.parse_args(arguments)
    folders = [options.config_dir] if options.config_dir else []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(f"--config-dir must be a folder, got {folder}; give one that exists")
    for kind in options.kinds:
        if kind not in KINDS:
            raise ConfigurationError(f"there is no list of {kind}{suggestion(kind, KINDS)}")
    for place, kind in enumerate(options.kinds or KINDS):
        names = metrics() if kind == "metrics" else choices(_GROUPS[kind], *folders)
        for line in [*([""] if place else []), *lines(kind, names)]:
            show(line)
