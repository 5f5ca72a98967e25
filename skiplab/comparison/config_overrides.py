"""One-line messages for overrides that Hydra refuses. It imports no torch."""

import re
from collections.abc import Iterator, Sequence

from hydra import compose, initialize_config_module
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from skiplab.comparison.config_base import GROUPS, what_to_give
from skiplab.utils.suggestions import did_you_mean, suggestion


def refused_overrides(error: Exception, arguments: Sequence[str]) -> str:
    """What is wrong with a command line that Hydra cannot compose, with a suggestion.

    Args:
        error: Hydra's.
        arguments: of the command line.
    """
    overrides = [one for one in arguments if ("=" in one and not one.startswith("-")) or one.startswith("~")]
    nulls = [one.removesuffix("=null") for one in overrides if one.endswith("=null")]
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name} is unknown{suggestion(name, error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read; expected key=value, a value with special characters in quotes"
    groups = [key for key in nulls if key in (*GROUPS, "search")]
    if "Config group override must be" in str(error) and groups:
        return f"{groups[0]} must not be null; {what_to_give(groups[0])}"
    if missing := re.match(r"Could not (?:override|delete from config\.) '([^']+)'", str(error)):
        key = missing[1]
        given = next((one for one in overrides if one.startswith(f"{key}=")), None)
        return f"{key} is not in this configuration{_meant(key, given, overrides)}"
    return "; ".join(line.strip().rstrip(";.") for line in str(error).splitlines() if line.strip())


def _meant(key: str, given: str | None, overrides: Sequence[str]) -> str:
    """Keys similar to an unknown one, or its siblings, in the configuration without that override."""
    others = [one for one in overrides if not one.lstrip("~").startswith(key)]
    try:
        with initialize_config_module("experiments", version_base="1.3"):
            config = compose("config", overrides=others)
    except Exception:  # noqa: BLE001 - other overrides may be wrong too, or name files of the user's own folder
        return ""
    known = ["experiment", "method", *_keys(config)]
    parent, _, name = key.rpartition(".")
    if key in known:
        entries = [one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == key]
        return f" with all these entries. It has {', '.join(entries)}; +{key}.NAME=VALUE adds one"
    if meant := did_you_mean(key, known, cutoff=0.8):
        return meant
    siblings = [one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == parent]
    tail = f"; to set a key that the file leaves at its default, use +{given}" if given and parent else ""
    return f"{suggestion(name, siblings)}{tail}"


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield f"{prefix}{key}"
        node = config._get_node(str(key))
        if isinstance(node, DictConfig) and not OmegaConf.is_missing(config, str(key)) and not node._is_none():
            yield from _keys(node, f"{prefix}{key}.")
