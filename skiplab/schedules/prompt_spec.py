"""How a user asks for a prompt plan. Pure Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

from skiplab.schedules.exit_schedule import LayerPlan
from skiplab.schedules.prompt_plan import ALL, PromptPart, PromptPlan

PromptForm = Literal["decay", "ends", "project"]


@final
@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """A prompt plan by its form.

    `decay`: the depth falls over the prompt, linearly from all layers to the depth of the first decode step, so that
    it never rises over prompt and output. `ends`: from `from_layer` on, layers run only on the first and the last
    positions, and later tokens attend to these. `project`: likewise, but the other positions' keys and values are
    projected from the state below `from_layer`.

    Args:
        start, end: of `decay`, the shares of the prompt at which the depth begins to fall and at which it has fallen.
        from_layer: of `ends` and `project`.
        first, last: of `ends` and `project`, the numbers of positions; the last position must run, so `last` is at
            least 1.

    Raises:
        ValueError: an argument is out of its range or of another type, or belongs to another form.
    """

    form: PromptForm
    start: float = 0.0
    end: float = 1.0
    from_layer: int | None = None
    first: int = 0
    last: int = 1

    def __post_init__(self) -> None:
        if self.form not in get_args(PromptForm):
            raise ValueError(f"prompt form must be one of {', '.join(get_args(PromptForm))}, got {self.form!r}")
        self._check_types()
        if self.form == "decay":
            if (self.from_layer, self.first, self.last) != (None, 0, 1):
                raise ValueError("prompt form decay takes start and end; from_layer, first and last are of other forms")
            if not 0 <= self.start <= self.end <= 1 or self.start == 1:
                raise ValueError(
                    f"prompt start and end are shares with 0 <= start <= end <= 1 and start below 1, got "
                    f"start={self.start:g}, end={self.end:g}"
                )
            return
        if (self.start, self.end) != (0.0, 1.0):
            raise ValueError(f"prompt form {self.form} takes from_layer, first and last; start and end are of decay")
        if self.from_layer is None or self.from_layer < 1:
            raise ValueError(f"prompt form {self.form} needs from_layer, 1 or above, got {self.from_layer}")
        if self.first < 0 or self.last < 1:
            raise ValueError(f"prompt first must be at least 0 and last at least 1, got {self.first} and {self.last}")

    def _check_types(self) -> None:
        shares = {"start": self.start, "end": self.end}
        numbers = {"from_layer": self.from_layer, "first": self.first, "last": self.last}
        for values, types, kind in ((shares, int | float, "a number"), (numbers, int | None, "an integer")):
            for name, value in values.items():
                if isinstance(value, bool) or not isinstance(value, types):
                    raise ValueError(f"prompt {name} must be {kind}, got {value!r}")

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> "PromptSpec | None":
        """Made from a method's `prompt` node; None runs every layer on the whole prompt.

        Raises:
            ValueError: as the class, or the form is missing or an option unknown.
        """
        if options is None:
            return None
        known = {name: value for name, value in options.items() if value is not None}
        if known.keys() - cls.__dataclass_fields__.keys() or "form" not in known:
            raise ValueError(
                f"prompt takes form (one of {', '.join(get_args(PromptForm))}) and its options "
                f"{', '.join(name for name in cls.__dataclass_fields__ if name != 'form')}, got {list(known)}"
            )
        return cls(**known)

    def plan(self, num_layers: int, first_step: LayerPlan) -> PromptPlan:
        """The plan for a backbone.

        Args:
            first_step: layers of decode step 1.

        Raises:
            ValueError: the backbone has no layer `from_layer`.
        """
        if self.form == "decay":
            return self._decay(num_layers, first_step)
        assert self.from_layer is not None
        if self.from_layer >= num_layers:
            raise ValueError(
                f"prompt from_layer must be below the backbone's {num_layers} layers, got {self.from_layer}"
            )
        above = PromptPart(first=self.first, last=self.last)
        parts = (*(ALL,) * self.from_layer, *(above,) * (num_layers - self.from_layer))
        return PromptPlan(parts, projects=self.form == "project")

    def _decay(self, num_layers: int, first_step: LayerPlan) -> PromptPlan:
        """The layers that decode step 1 leaves out are dropped one by one: from the lowest on, or from the top on if
        the step terminates."""
        terminates = first_step == tuple(range(len(first_step)))
        dropped = [layer for layer in range(num_layers) if layer not in first_step]
        order = dropped[::-1] if terminates else dropped
        # Of a depth that falls linearly and is rounded, as `ExitSchedule.depth`.
        shares = {
            layer: self.start + (self.end - self.start) * (place + 0.5) / len(order)
            for place, layer in enumerate(order)
        }
        return PromptPlan(
            tuple(PromptPart(share=shares[layer]) if layer in shares else ALL for layer in range(num_layers))
        )

    def __str__(self) -> str:
        """Short name: `prompt decay`, `prompt decay 0.25-0.5`, `prompt ends from 6 4+16`, `prompt project from 6`."""
        named = [f"prompt {self.form}"]
        if (self.start, self.end) != (0.0, 1.0):
            named.append(f"{self.start:g}-{self.end:g}")
        if self.from_layer is not None:
            named.append(f"from {self.from_layer}")
        if (self.first, self.last) != (0, 1):
            named.append(f"{self.first}+{self.last}")
        return " ".join(named)
