"""Depth by generation step: decay functions, exit schedules and layer plans.

Pure Python. Terms: `L` layers with index 0..L-1; generation step `g` (0 is the token of the prompt
pass, which runs at full depth; `g >= 1` are decode steps); a plan is the ascending tuple of the
layers that run at a step; plans are nested when each is a subset of the one before it.

Source: SkipDecode, arXiv 2307.02628, section 3.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from skiplab.utils.suggestions import suggestion

LayerPlan = tuple[int, ...]
PlanKind = Literal["skip", "terminate"]


def skip_plan(num_layers: int, depth: int, warmup: int) -> LayerPlan:
    """Layers of a SkipDecode step: the bottom `warmup` and the top `depth - warmup` of `num_layers`."""
    return (*range(warmup), *range(num_layers - depth + warmup, num_layers))


def terminate_plan(depth: int) -> LayerPlan:
    """Layers of an early-exit step: the bottom `depth`."""
    return tuple(range(depth))


def layer_steps(plan: Callable[[int], LayerPlan], num_layers: int, steps: int) -> list[int]:
    """For each layer, how many of the steps 0..`steps` run it, the prompt pass (step 0) included.

    Because plans are nested these are the first steps, so layer `l` works on a prefix of the
    sequence: the prompt, if it runs that, and all but one of these steps' positions.

    Raises:
        ValueError: a plan runs a layer that an earlier step left out.
    """
    counts = [0] * num_layers
    for step in range(steps + 1):
        for layer in plan(step):
            if counts[layer] != step:
                raise ValueError(
                    f"plans must be nested: step {step} runs layer {layer}, which step "
                    f"{counts[layer]} left out; later steps may only drop layers"
                )
            counts[layer] = step + 1
    return counts


def _linear(x: float, rate: float) -> float:
    return 1 - x


def _power(x: float, rate: float) -> float:
    return (1 - x) ** rate


def _cosine(x: float, rate: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


def _exponential(x: float, rate: float) -> float:
    return (math.exp(-rate * x) - math.exp(-rate)) / (1 - math.exp(-rate))


def _step(x: float, rate: float) -> float:
    levels = round(rate)
    return 1 - min(math.floor(x * levels), levels - 1) / (levels - 1)


def _constant(x: float, rate: float) -> float:
    return 1.0


@dataclass(frozen=True)
class Decay:
    """A monotone function from 1 to 0 on [0, 1] that interpolates between max and min exit."""

    remaining: Callable[[float, float], float]
    default_rate: float
    lowest_rate: float


DECAYS: dict[str, Decay] = {
    "linear": Decay(_linear, 1.0, 0.0),
    "power": Decay(_power, 2.0, 1e-3),
    "cosine": Decay(_cosine, 1.0, 0.0),
    "exponential": Decay(_exponential, 3.0, 1e-3),
    "step": Decay(_step, 3.0, 2.0),
    "constant": Decay(_constant, 1.0, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class ExitSchedule:
    """Depth as a function of the generation step alone, shared by all rows, never increasing.

    Args:
        num_layers: `L` of the backbone.
        max_exit: depth at step 1, in layers; may be fractional, depth is rounded at each step.
        min_exit: depth at the horizon and beyond, likewise.
        horizon: generation step at which the depth reaches `min_exit`, at least 2.
        warmup: bottom layers that always run.
        decay: a name in `DECAYS`.
        rate: the decay's parameter (the exponent of `power`, the k of `exponential`'s exp(-k x), the
            levels of `step`; the others have none); None takes its default.

    Raises:
        ValueError: at construction, saying which bound is broken.
    """

    num_layers: int
    max_exit: float
    min_exit: float
    horizon: int
    warmup: int = 1
    decay: str = "linear"
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise ValueError(f"unknown decay {self.decay!r}{suggestion(self.decay, DECAYS)}")
        if not 1 <= self.min_exit <= self.max_exit <= self.num_layers:
            raise ValueError(
                f"exit layers must satisfy 1 <= min_exit <= max_exit <= num_layers, got "
                f"min_exit={self.min_exit:g}, max_exit={self.max_exit:g}, num_layers={self.num_layers}"
            )
        if not 0 <= self.warmup <= self.min_exit:
            raise ValueError(
                f"warmup must lie between 0 and min_exit={self.min_exit:g}, got {self.warmup}: "
                "the warm-up layers run at every step"
            )
        if self.horizon < 2:
            raise ValueError(f"horizon must be at least 2 generation steps, got {self.horizon}")
        if self.decay == "constant" and self.max_exit != self.min_exit:
            raise ValueError("a constant decay holds one depth: set max_exit equal to min_exit")
        lowest = DECAYS[self.decay].lowest_rate
        if self.decay_rate < lowest:
            raise ValueError(f"rate of the {self.decay} decay must be at least {lowest:g}, got {self.rate}")

    @property
    def decay_rate(self) -> float:
        return DECAYS[self.decay].default_rate if self.rate is None else self.rate

    def depth(self, step: int) -> int:
        """Number of layers that run at generation step `step`; step 0 runs all."""
        if step == 0:
            return self.num_layers
        x = min(1.0, (step - 1) / (self.horizon - 1))
        remaining = DECAYS[self.decay].remaining(x, self.decay_rate)
        return math.floor(self.min_exit + (self.max_exit - self.min_exit) * remaining + 0.5)

    def plan(self, step: int, kind: PlanKind = "skip") -> LayerPlan:
        """Layers that run at generation step `step`."""
        if kind == "skip":
            return skip_plan(self.num_layers, self.depth(step), self.warmup)
        if kind == "terminate":
            return terminate_plan(self.depth(step))
        raise ValueError(f"unknown plan kind {kind!r}{suggestion(kind, get_args(PlanKind))}")


def median_length(lengths: Sequence[int]) -> int:
    """The median, at least 2: the paper's horizon."""
    return max(2, sorted(lengths)[len(lengths) // 2])


HORIZONS: dict[str, Callable[[Sequence[int]], int]] = {
    "half": lambda lengths: max(2, median_length(lengths) // 2),
    "median": median_length,
    "p95": lambda lengths: max(2, sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]),
    "double": lambda lengths: 2 * median_length(lengths),
}


def decode_steps(lengths: Iterable[int]) -> list[int]:
    """How many outputs reach each decode step: element `g - 1` counts the lengths above `g`.

    Args:
        lengths: generated tokens per output, end-of-sequence included.
    """
    ordered = sorted(lengths)
    counts: list[int] = []
    shorter = 0
    for step in range(1, ordered[-1] if ordered else 0):
        while ordered[shorter] <= step:
            shorter += 1
        counts.append(len(ordered) - shorter)
    return counts


def expected_depth(depth: Callable[[int], int], reach: Sequence[int]) -> float:
    """Mean depth per decode step over outputs of which `reach[g - 1]` get to step `g`.

    Raises:
        ValueError: no output has a second token.
    """
    total = sum(reach)
    if total == 0:
        raise ValueError("no output is longer than one token, so there is no decode step to average over")
    return sum(count * depth(step) for step, count in enumerate(reach, start=1)) / total
