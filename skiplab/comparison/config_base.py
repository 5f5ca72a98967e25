"""Shared by all parts of the configuration: strict models, and errors that name the key. It imports no torch."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from skiplab.utils.suggestions import did_you_mean, suggestion

STRICT = ConfigDict(
    strict=True, extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True,
    protected_namespaces=(),
)  # fmt: skip
# Hydra groups from each of which a configuration needs one choice.
GROUPS = ("trainer", "data", "backbone", "generation", "tracking")
_LONGEST_SHOWN = 80

Model = TypeVar("Model", bound=BaseModel)
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
# The range that all random number generators accept.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]


def _unchanged(value: Any, check: Any) -> Any:
    check(value)
    return value


# Checked as a float, but an integer stays one: values are printed and hashed as they were given.
Number = Annotated[float, WrapValidator(_unchanged)]


class ConfigurationError(Exception):
    """The configuration cannot be run; the message says what was expected, what came, and what to do."""


class Section(BaseModel):
    """A part of the configuration: known keys only, no conversion between types, finite numbers."""

    model_config = STRICT


class _Processes(Section):
    model_config = ConfigDict(extra="ignore")
    devices: PositiveInt = 1
    num_nodes: PositiveInt = 1
    accelerator: str = "cpu"


class Launch(Section):
    """The values that are needed before torch is imported."""

    model_config = ConfigDict(extra="ignore")
    job: Name
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    trainer: _Processes


def launch(cfg: DictConfig) -> Launch:
    """The values that are needed before torch is imported.

    Raises:
        ConfigurationError: a value is missing, of another type or out of its range.
    """
    with configuring():
        nodes = {key: cfg[key] for key in Launch.model_fields if key in cfg}
        plain = {
            key: OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
            for key, node in nodes.items()
        }
        return validate(Launch, plain)


def validate(model: type[Model], values: Mapping[str, Any], key: str = "") -> Model:
    """A model from plain values.

    Raises:
        ConfigurationError: the message names every key that is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(explain(error, values, model, key)) from error


def explain(error: ValidationError, values: Any, model: type[BaseModel] | None = None, key: str = "") -> str:
    """A validation's errors in one line.

    Args:
        values: the validated values.
        model: the model that validated them, for suggestions; None for a plain type.
        key: the place of `values` in the configuration; empty for the whole configuration.
    """
    expected: dict[str, list[str]] = {}
    tails: dict[str, str] = {}
    for one in error.errors(include_url=False):
        path, value = _follow(values, one["loc"])
        name = _joined(key, path)
        if one["type"] == "missing":
            name = _joined(key, [*path, one["loc"][-1]])
            expected[name], tails[name] = ["is missing"], f"; {what_to_give(name)}"
        elif one["type"] == "extra_forbidden":
            expected[name], tails[name] = ["is unknown"], suggestion(str(path[-1]), _fields(model, path[:-1]))
        else:
            text = _wording(one["msg"])
            known = expected.setdefault(name, [])
            known.append(text.removeprefix("be ") if known else text)
            tails[name] = f", got {shown(value)}{_advice(name, value, text)}"
    return "; ".join(
        f"{name} {'' if texts[0].startswith('is ') else 'must '}{' or '.join(texts)}{tails[name]}"
        for name, texts in expected.items()
    )


def what_to_give(key: str) -> str:
    """How to give a missing key on the command line."""
    if key in (*GROUPS, "search"):
        names = sorted(entry.name for entry in (files("experiments") / key).iterdir())
        known = [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]
        return f"choose one as {key}=NAME, of {', '.join(known)}"
    return f"give it as {key}=VALUE (+{key}=VALUE where the experiment has no such key)"


def shown(value: Any) -> str:
    """A value as it is written in YAML, cut if it is long."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


@contextmanager
def configuring() -> Iterator[None]:
    """Turns whatever a bad configuration raises into a `ConfigurationError` of one line."""
    # Hugging Face's error for a bad model configuration is not a ValueError.
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except MissingMandatoryValue as error:
        raise ConfigurationError(f"{error.full_key} has no value yet; give it as {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        at = f"{error.full_key}: " if error.full_key else ""
        raise ConfigurationError(f"{at}{str(error).splitlines()[0]}") from error
    except (ValueError, TypeError, OSError, StrictDataclassError) as error:
        raise ConfigurationError(str(error)) from error


_WORDINGS = MappingProxyType(
    {
        r"^\w+ should ": "",
        r" after validation, not \d+$": "",
        "a valid dictionary or instance of .*": "a section of keys and values",
        "a valid dictionary": "a mapping of keys to values",
        "a valid ": "a ",
        "a integer": "an integer",
        "greater than or equal to": "at least",
        "less than or equal to": "at most",
        "less than": "below",
        "greater than": "above",
    }
)


def _wording(message: str) -> str:
    """Pydantic's message, reworded to follow a key and "must"."""
    for pattern, replacement in _WORDINGS.items():
        message = re.sub(pattern, replacement, message)
    return message


def _follow(values: Any, places: Iterable[str | int]) -> tuple[list[str | int], Any]:
    """The leading part of a path that exists in the values, and the value there. The rest names members of a union."""
    path: list[str | int] = []
    for place in places:
        try:
            values = values[place]
        except (KeyError, IndexError, TypeError):
            break
        path.append(place)
    return path, values


def _joined(key: str, path: Iterable[str | int]) -> str:
    for place in path:
        key += f"[{place}]" if isinstance(place, int) else f".{place}" if key else place
    return key


def _fields(model: type[BaseModel] | None, path: Iterable[str | int]) -> list[str]:
    """The keys that a model accepts at a path."""
    for place in path:
        field = model.model_fields.get(str(place)) if model else None
        annotation: Any = field.annotation if field else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return list(model.model_fields) if model else []


def _advice(key: str, value: Any, expected: str) -> str:
    if value is None:
        return f"; leave {key}=null out for the default"
    if isinstance(value, str) and (known := re.findall(r"'([^']+)'", expected)):
        return did_you_mean(value, known)
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", value):
        return f"; write {value} without quotes"
    if isinstance(value, float) and value.is_integer() and "integer" in expected:
        return f"; write {value:.0f}"
    return ""
