"""Values of the wrong type are refused by name, before Python stumbles over them."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_class

from skiplab.backbones.checkpoint import DType
from skiplab.data.encoding import Template
from skiplab.evaluation.calibration import CalibrationSpec

_TOP: dict[str, Any] = {
    "speedups": list[float],
    "seeds": list[int],
    "limit": int | None,
    "threads": int,
    "cache_dir": str,
    "checkpoint_every": float,
    "max_new_tokens": int,
    "decode_batch_size": int,
    "decode_dtype": DType | None,
    "save_models": bool,
    "bertscore": str | None,
    "metrics": list[str],
}


def check_types(config: Mapping[str, Any]) -> None:
    """Check the top of a configuration and its dataclass nodes.

    Raises:
        ValueError: the message names the key, what was expected and what came.
    """
    for key, expected in _TOP.items():
        _check(key, config[key], expected)
    for section in ("trainer", "backbone", "data"):
        _check_node(section, config[section], get_class(config[section]["_target_"]))
    for section, cls in (("calibration", CalibrationSpec), ("template", Template)):
        hints = get_type_hints(cls)
        for name, value in config[section].items():
            if name not in hints:
                raise ValueError(f"{section}.{name} is unknown; choose from {', '.join(sorted(hints))}")
            _check(f"{section}.{name}", value, hints[name])
    trainer = get_type_hints(get_class(config["trainer"]["_target_"])) | {"seed": int}
    for name, value in config["base"].items():
        if name not in trainer:
            raise ValueError(f"base.{name} is no setting of the trainer; choose from {', '.join(sorted(trainer))}")
        _check(f"base.{name}", value, trainer[name])
    for name, node in config["methods"].items():
        if not isinstance(node, Mapping) or not {"name", "_target_"} <= node.keys():
            raise ValueError(f"methods.{name} must be a node with name and _target_, got {node!r}")


def _check_node(key: str, node: Mapping[str, Any], cls: Any) -> None:
    """Check the values of a dataclass, and of the nodes within."""
    hints = get_type_hints(cls) if is_dataclass(cls) else {}
    for name in [field.name for field in fields(cls) if field.name in node] if is_dataclass(cls) else []:
        value = node[name]
        if isinstance(value, Mapping) and "_target_" in value:
            _check_node(f"{key}.{name}", value, get_class(value["_target_"]))
        else:
            _check(f"{key}.{name}", value, hints[name])


def _check(key: str, value: Any, expected: Any) -> None:
    if not _fits(value, expected):
        name = getattr(expected, "__name__", None) if get_origin(expected) is None else None
        raise ValueError(f"{key} must be {name or str(expected)}, got {value!r}")


def _fits(value: Any, expected: Any) -> bool:
    origin = get_origin(expected)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(expected))
    if origin is list:
        return isinstance(value, list) and all(_fits(item, get_args(expected)[0]) for item in value)
    if origin is Literal:
        return value in get_args(expected)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)
