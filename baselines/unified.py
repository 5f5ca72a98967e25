"""Unified Layer Skipping (arXiv 2404.06954): the same evenly spaced layers at every step.

Fine-tuned and decoded at its speedup, with the prompt at full depth. The layers are those of the
released code, which always keeps the first and the last.

Deviation: a skipped layer holds no keys and values for generated tokens, where the released code fills
in a lower layer's; no step reads them.
"""

from collections.abc import Mapping
from typing import final

from skiplab.engine.policy import Planned
from skiplab.methods.base import Setup
from skiplab.methods.scheduled import PlanTrainedModule
from skiplab.schedules.exit_schedule import LayerPlan, terminate_plan


def spaced_plan(num_layers: int, speedup: float) -> LayerPlan:
    """The `floor(num_layers / speedup)` kept layers: both ends, and multiples of the interval between them.

    Raises:
        ValueError: the speedup leaves fewer than two layers.
    """
    kept = int(num_layers / speedup)
    if not 2 <= kept <= num_layers:
        raise ValueError(
            f"unified keeps at least two layers: its speedup must lie between 1 and {num_layers / 2:g} for "
            f"{num_layers} layers, got {speedup:g}"
        )
    interval = int(num_layers / (kept - 1))
    between = range(interval, num_layers - 1, interval)
    return (0, *between[: kept - 2], num_layers - 1)


@final
class UnifiedLayerSkipping(PlanTrainedModule):
    """Fine-tunes and decodes with evenly spaced layers.

    Args:
        speedup: target speedup, from which the number of layers follows.
        distill: keywords of `Distillation`.
    """

    def __init__(self, setup: Setup, *, speedup: float, distill: Mapping[str, float] | None = None) -> None:
        layers = setup.backbone.num_layers
        plan = spaced_plan(layers, speedup)
        super().__init__(setup, distill)
        self.policy = Planned([terminate_plan(layers), plan])
        self.plans = {"layers": list(plan)}
        self._speedup = speedup
        self._kept = len(plan)

    @property
    def setting(self) -> str:
        return f"{self._speedup:g}x {self._kept} layers{self.distillation.suffix}"

    @property
    def target_speedup(self) -> float | None:
        return self.backbone.num_layers / self._kept
