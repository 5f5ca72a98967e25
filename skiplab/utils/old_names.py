"""Names that classes had in earlier versions, for folders saved by these."""

from collections.abc import Mapping
from typing import Any

_MODULES = {
    "skiplab.full": "skiplab.methods.full",
    "skiplab.jobs.search_spec": "skiplab.search.spec",
    "skiplab.once_for_all": "skiplab.methods.once_for_all",
    "skiplab.search_space": "skiplab.search.space",
    "skiplab.skipdecode": "skiplab.methods.skipdecode",
    "skiplab.training": "skiplab.training.trainer",
}
"""Every module whose classes configurations and saved folders name, where it has moved."""


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
