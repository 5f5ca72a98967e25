"""Nodes of the configuration that name a class: check their values against its type hints, and build the object."""

import inspect
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, InstanceOf, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from skiplab.comparison.config_base import (
    ConfigurationError,
    Seed,
    explain,
    shown,
    what_to_give,
)
from skiplab.utils.suggestions import suggestion

Kind = TypeVar("Kind")
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


class _Check(Protocol):
    def validate_python(self, object: Any, /) -> Any: ...


def build(node: Any, kind: type[Kind], key: str) -> Kind:
    """The object that a node with `_target_` describes; nested nodes are built first.

    Args:
        kind: the class of which it must be an instance.
        key: the node's place in the configuration.

    Raises:
        ConfigurationError: the class cannot be imported or is of another kind, or a value is invalid.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigurationError(
            f"{key} must be a node with _target_, which names a {kind.__name__}, got {shown(node)}; {what_to_give(key)}"
        )
    cls = target(node["_target_"], f"{key}._target_")
    if not issubclass(cls, kind):
        raise ConfigurationError(f"{key}._target_ must name a {kind.__name__}, got {node['_target_']}")
    return make(cls, {name: value for name, value in node.items() if name != "_target_"}, key)


def make(cls: type[Kind], values: Mapping[str, Any], key: str) -> Kind:
    """An object of a class from checked values; nested nodes are built first.

    Raises:
        ConfigurationError: a value is invalid, or the class refuses it.
    """
    hints = _hints(cls)
    built = {
        name: build(value, _kind(hints.get(name)), f"{key}.{name}")
        if isinstance(value, Mapping) and "_target_" in value
        else value
        for name, value in values.items()
    }
    check_values(cls, built, key)
    if missing := [name for name in required(cls) if name not in built]:
        raise ConfigurationError(f"{key}.{missing[0]} is missing; {what_to_give(f'{key}.{missing[0]}')}")
    try:
        return cls(**built)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(_keyed(str(error), key, hints)) from error


def target(path: Any, key: str) -> type:
    """The class at a dotted path.

    Raises:
        ConfigurationError: there is no class at this path.
    """
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{key} must be the dotted path of a class that can be imported, got {shown(path)}: {error}"
        ) from error
    if not isinstance(found, type):
        raise ConfigurationError(f"{key} must name a class, got {shown(path)}")
    return found


def check_values(cls: type, values: Mapping[str, Any], key: str, *, also: Collection[str] = ()) -> None:
    """Check values against the type hints of the parameters of the same names.

    Args:
        also: keys that are not parameters, and are not checked.

    Raises:
        ConfigurationError: a value is of another type or not finite, or a key is unknown.
    """
    for name, value in values.items():
        if name not in also:
            check_value(cls, name, value, f"{key}.{name}")


def check_value(cls: type, name: str, value: Any, key: str) -> None:
    """Check one value against the type hint of the parameter `name`.

    Raises:
        ConfigurationError: the value is of another type or not finite, or there is no such parameter.
    """
    checks = _checks(cls)
    if name not in checks:
        if _takes_anything(cls):
            return
        raise ConfigurationError(f"{key} is unknown{suggestion(name, sorted(checks))}")
    check = checks[name]
    if check is None:
        return
    if get_origin(_hints(cls)[name]) is Mapping and isinstance(value, Mapping):
        # Overrides merge into mappings, and null removes an entry.
        value = {entry: inner for entry, inner in value.items() if inner is not None}
    try:
        check.validate_python(value)
    except ValidationError as error:
        raise ConfigurationError(explain(error, value, key=key)) from error


def with_floats(node: Any, cls: type | None = None, *, sections: Mapping[str, type] | None = None) -> Any:
    """Plain values with whole numbers as floats where a class takes floats, because 0 and 0.0 must have one hash.

    Args:
        cls: the class that takes the values; None is the one that the node names, if it does.
        sections: such classes of nodes within the node, by key.
    """
    if not isinstance(node, Mapping):
        return node
    try:
        named = cls or (target(node["_target_"], "") if "_target_" in node else None)
    except ConfigurationError:
        # Whoever builds the node reports it.
        named = None
    hints = _hints(named) if named else {}
    return {
        name: float(value)
        if type(value) is int and _is_float(hints.get(name))
        else with_floats(value, (sections or {}).get(name))
        for name, value in node.items()
    }


def _is_float(hint: Any) -> bool:
    """Whether a parameter is a float, or a float or None."""
    return float in (hint, *get_args(hint)) and int not in get_args(hint)


def required(cls: type) -> list[str]:
    """The parameters without a default."""
    if is_dataclass(cls):
        return [field.name for field in fields(cls) if field.init and field.default is field.default_factory is MISSING]
    parameters = list(inspect.signature(cls).parameters.values())
    named = [one for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return [one.name for one in named if one.default is one.empty]


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Type hints by parameter: of a dataclass's fields, or of all constructors that keywords are passed on to.

    A class whose constructor passes further keywords to a dataclass names that dataclass as `keywords_of`.
    """
    if is_dataclass(cls):
        hints = _resolved(cls)
        return {field.name: hints.get(field.name, Any) for field in fields(cls) if field.init}
    found: dict[str, Any] = {}
    for parent in cls.__mro__:
        if "__init__" not in vars(parent):
            continue
        hints = _resolved(vars(parent)["__init__"])
        parameters = list(inspect.signature(vars(parent)["__init__"]).parameters.values())[1:]
        named = {one.name: hints.get(one.name, Any) for one in parameters if one.kind is not one.VAR_KEYWORD}
        found = {**named, **found}
        if len(named) == len(parameters):
            break
    further = getattr(cls, "keywords_of", None)
    return {**(_hints(further) if further else {}), **found}


def _takes_anything(cls: type) -> bool:
    """Whether a class accepts keywords that are not known here."""
    if is_dataclass(cls) or hasattr(cls, "keywords_of"):
        return False
    parameters = inspect.signature(cls).parameters.values()
    return any(one.kind is one.VAR_KEYWORD for one in parameters)


@cache
def _checks(cls: type) -> dict[str, _Check | None]:
    """Validators by parameter; None if pydantic cannot check the type hint.

    A parameter `seed: int` is limited to the range that all random number generators accept.
    """
    return {name: _adapter(Seed if name == "seed" and hint is int else hint) for name, hint in _hints(cls).items()}


def _adapter(hint: Any) -> _Check | None:
    if isinstance(hint, type) and is_dataclass(hint):
        return TypeAdapter(InstanceOf[hint])  # type: ignore[valid-type]
    try:
        return TypeAdapter(hint, config=_CONFIG)
    except PydanticSchemaGenerationError:
        return None


def _resolved(annotated: Any) -> dict[str, Any]:
    try:
        return get_type_hints(annotated)
    except NameError:
        # Some hints are imported only for type checkers.
        return {}


def _keyed(message: str, key: str, names: Collection[str]) -> str:
    """A class's error message, with the whole key in place of a leading `SECTION NAME`."""
    section, _, rest = message.partition(" ")
    name = re.split("[ ,=]", rest, maxsplit=1)[0]
    if section.isidentifier() and name in names:
        return f"{key}.{rest}"
    return message if message.startswith(key) else f"{key}: {message}"


def _kind(hint: Any) -> type:
    """The class of which a parameter's node must be an instance."""
    options = [hint, *getattr(hint, "__args__", ())]
    return next((one for one in options if isinstance(one, type) and is_dataclass(one)), object)
