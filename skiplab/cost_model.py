"""Predict decode time at a shape, batch and schedule that were not measured, from ones that were.

A step takes `per_step + depth * per_layer + max(bytes / bandwidth, operations / flops)` seconds: launch
and loop overhead, and the roofline at the speeds that decoding really reaches. The four constants are
fitted to measured settings; they hold for one machine, number format and engine.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from skiplab.cost import Footprint, Step, step_bytes, step_flops


@dataclass(frozen=True)
class Observation:
    """A measured setting: its decode steps, its backbone, and the seconds that all the steps took."""

    steps: Sequence[Step]
    size: Footprint
    seconds: float


@final
@dataclass(frozen=True)
class CostModel:
    """The fitted constants, in seconds, bytes per second and operations per second."""

    per_step: float
    per_layer: float
    bandwidth: float
    flops: float

    def seconds(self, steps: Sequence[Step], size: Footprint) -> float:
        """Predicted time of decode steps."""
        return sum(
            self.per_step
            + step.depth * self.per_layer
            + max(step_bytes(step, size) / self.bandwidth, step_flops(step, size) / self.flops)
            for step in steps
        )


def fit(observations: Sequence[Observation]) -> CostModel:
    """The constants with the least squared relative errors.

    Raises:
        ValueError: fewer observations than constants.
    """
    import numpy as np
    from scipy.optimize import least_squares

    if len(observations) < 4:
        raise ValueError(
            f"a cost model has four constants and takes as many measured settings, got {len(observations)}"
        )

    def model(logs: Sequence[float]) -> CostModel:
        return CostModel(*(math.exp(value) for value in logs))

    def errors(logs: Sequence[float]) -> list[float]:
        fitted = model(logs)
        return [math.log(fitted.seconds(one.steps, one.size) / one.seconds) for one in observations]

    # Where one term alone explains the slowest setting, each is of the right order.
    slowest = max(observations, key=lambda one: one.seconds)
    moved = sum(step_bytes(step, slowest.size) for step in slowest.steps)
    done = sum(step_flops(step, slowest.size) for step in slowest.steps)
    start = [1e-5, 1e-6, moved / slowest.seconds, done / slowest.seconds]
    starts = [[*start[:2], start[2] * a, start[3] * b] for a in (1, 3) for b in (1, 3, 10)]
    found = [least_squares(errors, np.log(guess), max_nfev=400) for guess in starts]
    return model(min(found, key=lambda result: result.cost).x)


def relative_errors(model: CostModel, observations: Sequence[Observation]) -> list[float]:
    """Predicted over measured seconds, less one, of each observation."""
    return [model.seconds(one.steps, one.size) / one.seconds - 1 for one in observations]


def median_error(model: CostModel, observations: Sequence[Observation]) -> float:
    """Median size of the relative errors."""
    return statistics.median(abs(error) for error in relative_errors(model, observations))
