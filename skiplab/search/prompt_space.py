"""Which prompt plans a search may try. Pure Python."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

# Options of each form; the least value of each option.
_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "whole": (), "decay": ("start", "end"), "ends": ("from_layer", "first", "last"),
    "project": ("from_layer", "first", "last"),
})  # fmt: skip
_LEAST = MappingProxyType({"start": 0, "end": 0, "from_layer": 1, "first": 0, "last": 1})


class Suggests(Protocol):
    """The part of Optuna's trial interface that is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...


def check_prompt_space(space: Mapping[str, Sequence[Any]], num_layers: int | None = None) -> None:
    """Refuse ranges of prompt plans that are empty, inverted or out of bounds.

    Args:
        num_layers: of the backbone; None if it is not known yet.

    Raises:
        ValueError: the message names the range.
    """
    if not space:
        return
    forms = list(space.get("form", ()))
    if not forms or len(set(forms)) < len(forms) or not set(forms) <= set(_OPTIONS):
        raise ValueError(f"search.space.prompt.form takes different values of {', '.join(_OPTIONS)}, got {forms}")
    known = {name for form in forms for name in _OPTIONS[form]}
    for name, ends in space.items():
        if name == "form":
            continue
        if name not in known:
            raise ValueError(
                f"search.space.prompt takes form and {', '.join(sorted(known))} with these forms, got {name!r}"
            )
        check_range(f"prompt.{name}", ends)
        most = {"start": 0.99, "end": 1, "from_layer": num_layers and num_layers - 1}.get(name)
        if ends[0] < _LEAST[name] or (most is not None and ends[1] > most):
            raise ValueError(
                f"search.space.prompt.{name} must begin at {_LEAST[name]} or above"
                f"{'' if most is None else f' and end at {most} or below'}, got {list(ends)}"
            )
    if "from_layer" in known and "from_layer" not in space:
        raise ValueError("search.space.prompt needs a range of from_layer for the forms ends and project")


def suggest_prompt(trial: Suggests, space: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A trial's prompt parameters; empty if whole prompts are all that the space has."""
    if not space:
        return {}
    form = trial.suggest_categorical("prompt", list(space["form"]))
    found: dict[str, Any] = {"prompt": form}
    for name in (name for name in _OPTIONS[form] if name in space):
        low, high = space[name]
        if name in ("start", "end"):
            found[f"prompt_{name}"] = trial.suggest_float(f"prompt_{name}", float(low), float(high))
        else:
            found[f"prompt_{name}"] = trial.suggest_int(f"prompt_{name}", int(low), int(high))
    return found


def prompt_of(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The keywords of `PromptSpec` that a trial's parameters mean; None for whole prompts."""
    form = params.get("prompt", "whole")
    if form == "whole":
        return None
    given = {name: params[f"prompt_{name}"] for name in _OPTIONS[form] if f"prompt_{name}" in params}
    return {"form": form, **given}


def check_range(name: str, ends: Sequence[Any]) -> None:
    """Refuse what is no range of two ascending numbers.

    Raises:
        ValueError: the message names it.
    """
    if len(ends) != 2 or any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise ValueError(f"search.space.{name} takes a range of two numbers, got {list(ends)}")
    if ends[0] > ends[1]:
        raise ValueError(f"search.space.{name} is inverted: {list(ends)} must ascend")
