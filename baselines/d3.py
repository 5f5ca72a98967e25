"""D3: position-aware depth decay decoding (arXiv 2503.08524), without training.

Generated token `i` keeps `floor(L * alpha ** i)` layers. Core layers next to input and output always run;
the middle ones are skipped.

Deviations, because neither the paper's text nor its code was available: the layers skipped first are the lowest of
the middle, so that plans are nested and every cache entry is exact, where D3 copies keys and values from
a near layer; `alpha` is solved from a target layer speedup on the data's output lengths; the prompt runs
at full depth.
"""

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor

from skiplab.engine.batch import Batch
from skiplab.engine.policy import Planned
from skiplab.methods.base import PlannedModule, Setup
from skiplab.schedules.bisection import bisect
from skiplab.schedules.exit_schedule import decode_steps, expected_depth, skip_plan


def decayed_depth(num_layers: int, alpha: float, step: int, *, core: int, start: int) -> int:
    """Layers at generation step `step`: `floor(num_layers * alpha ** (step - start))`, no fewer than the core.

    Args:
        core: layers at each end that always run.
        start: last step at full depth.
    """
    # Without the small term, rounding can take an exact power below its integer.
    return max(2 * core, math.floor(num_layers * alpha ** max(0, step - start) + 1e-9))


def solve_alpha(speedup: float, num_layers: int, lengths: Sequence[int], *, core: int, start: int) -> float:
    """The `alpha` whose layer speedup over outputs of these lengths, in tokens, is `speedup`, by bisection.

    Raises:
        ValueError: the speedup cannot be reached within 5%.
    """
    reach = decode_steps(lengths)

    def found(alpha: float) -> float:
        return num_layers / expected_depth(
            lambda step: decayed_depth(num_layers, alpha, step, core=core, start=start), reach
        )

    low, high = bisect(lambda alpha: found(alpha) > speedup, 0.0, 1.0, halvings=50)
    alpha = min(low, high, key=lambda alpha: abs(found(alpha) - speedup))
    if abs(found(alpha) / speedup - 1) > 0.05:
        raise ValueError(
            f"d3's speedup of {speedup:g} cannot be met with {num_layers} layers, core={core} and start={start}: "
            f"they allow 1 to {found(0.0):.3g}, the nearest is {found(alpha):.3g}"
        )
    return alpha


@final
class D3(PlannedModule):
    """Decodes the base with a depth that decays as a power of the step.

    Args:
        speedup: target layer speedup, from which `alpha` follows.
        core: layers at each end that always run; at least 1.
        start: last generation step at full depth.
    """

    trains = False

    def __init__(self, setup: Setup, *, speedup: float, core: int = 1, start: int = 0) -> None:
        super().__init__(setup)
        layers = setup.backbone.num_layers
        if not 1 <= core <= layers // 2 or start < 0:
            raise ValueError(
                f"d3 needs a core of 1 to {layers // 2} layers at each end and a start of at least 0, got {core} "
                f"and {start}"
            )
        self._speedup = speedup
        self._core = core
        self._start = start
        alpha = solve_alpha(speedup, layers, setup.lengths, core=core, start=start)
        plans = [
            skip_plan(layers, decayed_depth(layers, alpha, step, core=core, start=start), core)
            for step in range(max(setup.lengths) + 1)
        ]
        self.policy = Planned(plans)

    @property
    def setting(self) -> str:
        named = [f"{self._speedup:g}x"]
        named += [f"core {self._core}"] if self._core != 1 else []
        named += [f"from step {self._start}"] if self._start else []
        return " ".join(named)

    @property
    def target_speedup(self) -> float | None:
        return self._speedup

    def loss(self, batch: Batch) -> Tensor:
        raise TypeError("d3 decodes the base as it is and has no training")
