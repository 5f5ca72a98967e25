"""An exit schedule as a file: what a search found, for a method to run.

A YAML mapping with `name`, `num_layers`, `plans` (a list of `from_step` and `layers`, from step 1 on; the prompt pass
runs every layer), and for information `layer_speedup` on the outputs that it was chosen for, and `origin`.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from skiplab.schedules.nested_plan import NestedPlan
from skiplab.utils.files import write_text

# Names stand in file names.
_LONGEST_NAME = 100


@final
@dataclass(frozen=True, kw_only=True)
class NamedPlan:
    """A plan, and where it comes from.

    Attributes:
        name: a short readable name; part of a setting's name.
        layer_speedup: on the outputs that it was chosen for; None if unknown.
        origin: plain values, only for information.
    """

    name: str
    plan: NestedPlan
    layer_speedup: float | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def plain(self, *, origin: bool = True) -> dict[str, Any]:
        """As plain values that `named_plan` reads, with the origin unless it is left out."""
        known = {} if self.layer_speedup is None else {"layer_speedup": round(self.layer_speedup, 4)}
        return {
            "name": self.name,
            "num_layers": self.plan.num_layers,
            **known,
            "plans": [{"from_step": start, "layers": list(layers)} for start, layers in self.plan.segments()],
            **({"origin": dict(self.origin)} if self.origin and origin else {}),
        }

    def write(self, path: Path) -> None:
        """Write the file."""
        import yaml

        body = yaml.safe_dump(self.plain(), sort_keys=False, default_flow_style=None, width=110)
        write_text(path, f"# Exit schedule: method=skipdecode method.schedule={path.name}\n{body}")


def named_plan(source: str | Mapping[str, Any], num_layers: int) -> NamedPlan:
    """From a file, or from the values that it holds.

    Args:
        num_layers: of the backbone that is to run it.

    Raises:
        ValueError: it is not a schedule file, or is for another number of layers.
    """
    values = _read(source) if isinstance(source, str) else dict(source)
    missing = [key for key in ("name", "num_layers", "plans") if key not in values]
    if missing:
        raise ValueError(f"an exit schedule needs name, num_layers and plans; {', '.join(missing)} is missing")
    _check_plain(values)
    if values["num_layers"] != num_layers:
        raise ValueError(
            f"schedule {values['name']!r} is for {values['num_layers']} layers, the backbone has {num_layers}"
        )
    segments = [(part["from_step"], part["layers"]) for part in values["plans"]]
    return NamedPlan(
        name=values["name"],
        plan=NestedPlan.from_segments(num_layers, segments),
        layer_speedup=values.get("layer_speedup"),
        origin=values.get("origin") or {},
    )


def _check_plain(values: Mapping[str, Any]) -> None:
    """Refuse values of other types, names that are too long for a file's, and numbers that are not finite.

    Raises:
        ValueError: the message names the key.
    """
    name, speedup = values["name"], values.get("layer_speedup")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(
            f"name of an exit schedule must be a text of 1 to {_LONGEST_NAME} characters, got {reprlib.repr(name)}"
        )
    if not _is_integer(values["num_layers"]):
        raise ValueError(
            f"num_layers of schedule {name!r} must be an integer, got {reprlib.repr(values['num_layers'])}"
        )
    if not _is_list_of_plans(values["plans"]):
        raise ValueError(
            f"plans of schedule {name!r} must be a list of mappings with from_step, an integer, and layers, a list of "
            f"integers, got {reprlib.repr(values['plans'])}"
        )
    if speedup is not None and not (isinstance(speedup, int | float) and 0 < speedup < math.inf):
        raise ValueError(
            f"layer_speedup of schedule {name!r} must be a finite number above 0, got {reprlib.repr(speedup)}"
        )
    if not isinstance(values.get("origin") or {}, Mapping):
        raise ValueError(f"origin of schedule {name!r} must be a mapping, got {reprlib.repr(values['origin'])}")


def _is_list_of_plans(plans: Any) -> bool:
    return isinstance(plans, list | tuple) and all(
        isinstance(part, Mapping)
        and _is_integer(part.get("from_step"))
        and isinstance(part.get("layers"), list | tuple)
        and all(map(_is_integer, part["layers"]))
        for part in plans
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read(path: str) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"schedule={path} cannot be read: {error}; give the YAML file that a search wrote") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"schedule={path} is not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ValueError(f"schedule={path} holds no exit schedule: expected a mapping, got {type(values).__name__}")
    return values
