"""Names that classes and hyperparameters had in earlier versions, for folders saved by these."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_MODULES = MappingProxyType(
    {
        "skiplab.full": "skiplab.methods.full",
        "skiplab.jobs.search_spec": "skiplab.search.spec",
        "skiplab.once_for_all": "skiplab.methods.once_for_all",
        "skiplab.search_space": "skiplab.search.space",
        "skiplab.skipdecode": "skiplab.methods.skipdecode",
        "skiplab.training": "skiplab.training.trainer",
    }
)
"""Every module whose classes configurations and saved folders name, where it has moved."""


@dataclass(frozen=True)
class _Moved:
    """Where a hyperparameter is today: an option of a part.

    Attributes:
        only_with: a hyperparameter of that time and the value without which this one had no effect.
    """

    part: str
    option: str
    only_with: tuple[str, Any] | None = None


_HYPERPARAMETERS = MappingProxyType(
    {
        "baselines.calm.CALM": {
            "measure": _Moved("confidence", "name"),
            "vocabulary": _Moved("confidence", "vocabulary"),
            "classifier_loss": _Moved("confidence", "loss", ("measure", "classifier")),
            "temperature": _Moved("decay", "temperature"),
            "decay": _Moved("decay", "formula"),
            "first_exit": _Moved("exits", "first"),
            "exit_interval": _Moved("exits", "interval"),
        },
    }
)
"""By class and the name of that time."""


def present_name(path: str) -> str:
    """The dotted path of a class today, from one that may be old."""
    module, _, name = path.rpartition(".")
    return f"{_MODULES.get(module, module)}.{name}"


def with_present_names(config: Any) -> Any:
    """A configuration of plain values whose `_target_` entries name classes by their present paths."""
    if isinstance(config, Mapping):
        return {
            key: present_name(value) if key == "_target_" and isinstance(value, str) else with_present_names(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [with_present_names(value) for value in config]
    return config


def with_present_hyperparameters(path: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters as the class takes them today.

    Args:
        path: of the class today.
        params: as they are today, or were in an earlier version; there None was the default everywhere.
    """
    moved = _HYPERPARAMETERS.get(path, {})
    found: dict[str, Any] = {}
    for name, value in params.items():
        place = moved.get(name)
        # What a part of today is called may be an option of that time, which was a plain value.
        if place is None or isinstance(value, Mapping):
            found[name] = value
        elif value is not None and (place.only_with is None or params.get(place.only_with[0]) == place.only_with[1]):
            found[place.part] = {**found.get(place.part, {}), place.option: value}
    return found
