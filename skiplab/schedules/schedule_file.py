"""An exit schedule as a file: what a search found, for a method to run.

A YAML mapping with `name`, `num_layers`, `plans` (a list of `from_step` and `layers`, from step 1 on; the prompt pass
runs every layer), and for information `layer_speedup` on the outputs that it was chosen for, and `origin`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from skiplab.schedules.nested_plan import NestedPlan
from skiplab.utils.files import write_text


@final
@dataclass(frozen=True, kw_only=True)
class NamedPlan:
    """A plan, and where it comes from.

    Attributes:
        name: what a person would call it; part of a setting's name.
        layer_speedup: on the outputs that it was chosen for; None if unknown.
        origin: plain values, for the reader alone.
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
    if values["num_layers"] != num_layers:
        raise ValueError(
            f"schedule {values['name']!r} is for {values['num_layers']} layers, the backbone has {num_layers}"
        )
    try:
        segments = [(int(part["from_step"]), [int(layer) for layer in part["layers"]]) for part in values["plans"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"plans of schedule {values['name']!r} must be a list of from_step and layers, got {values['plans']!r}"
        ) from error
    return NamedPlan(
        name=str(values["name"]),
        plan=NestedPlan.from_segments(num_layers, segments),
        layer_speedup=values.get("layer_speedup"),
        origin=values.get("origin") or {},
    )


def _read(path: str) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"schedule={path} cannot be read: {error}; give the YAML file that a search wrote") from error
    except yaml.YAMLError as error:
        raise ValueError(f"schedule={path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"schedule={path} holds no exit schedule: expected a mapping, got {type(values).__name__}")
    return values
