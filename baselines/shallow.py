"""A static shallow model: the bottom or the top layers alone, for prompt and output alike, fine-tuned.

The reference for methods whose depth depends on the step: the same number of layers at every step.
"""

from collections.abc import Mapping
from typing import Literal, final, get_args

from skiplab.engine.policy import Planned
from skiplab.methods.base import Setup
from skiplab.methods.scheduled import PlanTrainedModule
from skiplab.schedules.exit_schedule import skip_plan, terminate_plan

End = Literal["bottom", "top"]


@final
class Shallow(PlanTrainedModule):
    """Fine-tunes and decodes with some layers only.

    Args:
        speedup: layer speedup, which sets the number of layers, rounded.
        end: whether the `bottom` or the `top` layers are kept.
        distill: keywords of `Distillation`.
    """

    def __init__(
        self, setup: Setup, *, speedup: float, end: End = "bottom", distill: Mapping[str, float] | None = None
    ) -> None:
        layers = setup.backbone.num_layers
        if not 1 <= speedup <= layers:
            raise ValueError(f"shallow's speedup must lie between 1 and the {layers} layers, got {speedup:g}")
        if end not in get_args(End):
            raise ValueError(f"unknown shallow end {end!r}; choose one of {', '.join(get_args(End))}")
        kept = round(layers / speedup)
        plan = terminate_plan(kept) if end == "bottom" else skip_plan(layers, kept, 0)
        super().__init__(setup, distill)
        self.policy = Planned([plan])
        self.plans = {"prompt_and_steps": list(plan)}
        self._speedup = speedup
        self._kept = kept
        self._end: End = end

    @property
    def setting(self) -> str:
        return f"{self._speedup:g}x {self._end} {self._kept}{self.distillation.suffix}"

    @property
    def target_speedup(self) -> float | None:
        return self.backbone.num_layers / self._kept
