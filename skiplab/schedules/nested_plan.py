"""Any nested plan as one number per layer: layer `l` runs at the generation steps below `steps_L[l]`.

Pure Python. A schedule, an early exit and a plan of any layers become the same thing here, so that plans can be
compared, stored and solved for. Shapes: L layers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from skiplab.schedules.exit_schedule import LayerPlan, expected_depth, layer_steps


@final
@dataclass(frozen=True)
class NestedPlan:
    """A nested plan; step 0, the prompt pass, runs every layer.

    Args:
        steps_L: for each layer, how many of the steps 0, 1, ... run it. The layers with the largest number run on
            at all later steps.

    Raises:
        ValueError: a layer has no step, or no layer runs after step 0.
    """

    steps_L: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.steps_L or min(self.steps_L) < 1 or max(self.steps_L) < 2:
            raise ValueError(
                f"each layer must run at step 0, and at least one after it; got steps per layer {list(self.steps_L)}"
            )

    @classmethod
    def of(cls, plan: Callable[[int], LayerPlan], num_layers: int, steps: int) -> "NestedPlan":
        """What `plan` does at steps 0 to `steps`; equal plans there become equal here.

        Raises:
            ValueError: it is not nested, or leaves out layers at step 0.
        """
        return cls(tuple(layer_steps(plan, num_layers, steps)))

    @property
    def num_layers(self) -> int:
        return len(self.steps_L)

    def plan(self, step: int) -> LayerPlan:
        """Layers that run at generation step `step`."""
        last = min(step, max(self.steps_L) - 1)
        return tuple(layer for layer, steps in enumerate(self.steps_L) if steps > last)

    def depth(self, step: int) -> int:
        return len(self.plan(step))

    def mean_depth(self, reach: Sequence[int]) -> float:
        """Layers per decode step over outputs of which `reach[g - 1]` get to step `g`."""
        return expected_depth(self.depth, reach)

    def layer_speedup(self, reach: Sequence[int]) -> float:
        return self.num_layers / self.mean_depth(reach)

    def plans(self) -> list[LayerPlan]:
        """The plans from step 0 to the last step at which the plan changes."""
        return [self.plan(step) for step in range(max(self.steps_L))]

    def segments(self) -> list[tuple[int, LayerPlan]]:
        """The plan as runs of equal steps: (first step, layers), from step 1."""
        starts = sorted({1, *(steps for steps in self.steps_L if steps < max(self.steps_L))})
        return [(start, self.plan(start)) for start in starts]

    @classmethod
    def from_segments(cls, num_layers: int, segments: Sequence[tuple[int, Sequence[int]]]) -> "NestedPlan":
        """The inverse of `segments`.

        Raises:
            ValueError: the message says which segment is wrong.
        """
        if not segments or segments[0][0] != 1:
            raise ValueError("the first segment of a plan must begin at step 1, after the prompt pass")
        steps_L = [1] * num_layers
        before, start_before = set(range(num_layers)), 0
        for start, layers in segments:
            if start <= start_before:
                raise ValueError(f"segments must have ascending steps, got {start} after {start_before}")
            if not layers or not set(layers) <= before:
                raise ValueError(
                    f"from step {start} on a plan must run some of the layers that ran before, and no others (of "
                    f"{num_layers}, from 0); got {list(layers)} after {sorted(before)}"
                )
            for layer in before - set(layers):
                steps_L[layer] = start
            before, start_before = set(layers), start
        for layer in before:
            steps_L[layer] = start_before + 1
        return cls(tuple(steps_L))

    def __str__(self) -> str:
        return ", ".join(f"from step {start}: layers {' '.join(map(str, layers))}" for start, layers in self.segments())


def by_priority(order: Sequence[int], depth: Callable[[int], int], steps: int) -> NestedPlan:
    """The plan that runs the first `depth(g)` layers of an order at step `g`, for a depth that never increases."""

    def plan(step: int) -> LayerPlan:
        return tuple(sorted(order[: depth(step)] if step else order))

    return NestedPlan.of(plan, len(order), steps)


def random_plan(rng: random.Random, num_layers: int, steps: int, lowest: int) -> NestedPlan:
    """A plan drawn over all kinds: warm-up and top layers, bottom layers, or any layers, constant or decaying.

    The depth at the first step is drawn so that its speedup is uniform between 1 and `num_layers / lowest`; the
    depth at the end, reached at a uniform step, likewise from there on. The bottom layer always runs.
    """
    kind = rng.choice(("skip", "terminate", "any"))
    first = _drawn_depth(rng, num_layers, num_layers, lowest)
    last = first if rng.random() < 0.5 else _drawn_depth(rng, num_layers, first, lowest)
    end = rng.randint(2, max(2, steps))
    above = list(range(1, num_layers))
    if kind == "any":
        rng.shuffle(above)
    elif kind == "skip":
        warmup = rng.randint(1, max(1, min(4, last - 1)))
        above = [*range(1, warmup), *range(num_layers - 1, warmup - 1, -1)]

    def depth(step: int) -> int:
        return round(first + (last - first) * min(1.0, (step - 1) / (end - 1)))

    return by_priority([0, *above], depth, steps)


def _drawn_depth(rng: random.Random, num_layers: int, highest: int, lowest: int) -> int:
    speedup = rng.uniform(num_layers / highest, num_layers / lowest)
    return max(lowest, min(highest, round(num_layers / speedup)))
