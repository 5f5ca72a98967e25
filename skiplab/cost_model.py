"""Predict decode time at a shape, batch and schedule that were not measured, from ones that were.

A step of several rows takes `per_step + depth * per_layer + bytes / bandwidth + operations / flops` seconds: launch
and loop overhead, and reading and multiplying, which one core does in turns. Of one row the products are by a vector,
another layout and another speed: `per_step + depth * per_layer + bytes / row_bandwidth`. The constants are fitted to
measured settings, none faster than the machine's ceilings, or overheads would stand for bytes and say nothing about
another shape. They hold for one machine, number format and engine.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from skiplab.cost import Ceilings, Footprint, Step, step_bytes, step_flops

_CONSTANTS = 5
# How far a ceiling may be off, since it is measured too.
_SLACK = 1.1


@dataclass(frozen=True)
class Observation:
    """A measured setting: its decode steps, its backbone, and the seconds that all the steps took."""

    steps: Sequence[Step]
    size: Footprint
    seconds: float


@final
@dataclass(frozen=True)
class CostModel:
    """The fitted constants, in seconds, bytes per second and operations per second.

    Attributes:
        bandwidth, flops: of steps of several rows.
        row_bandwidth: of steps of one row.
    """

    per_step: float
    per_layer: float
    bandwidth: float
    flops: float
    row_bandwidth: float

    def seconds(self, steps: Sequence[Step], size: Footprint) -> float:
        """Predicted time of decode steps."""
        return sum(self.per_step + step.depth * self.per_layer + self._products(step, size) for step in steps)

    def _products(self, step: Step, size: Footprint) -> float:
        if step.rows == 1:
            return step_bytes(step, size) / self.row_bandwidth
        return step_bytes(step, size) / self.bandwidth + step_flops(step, size) / self.flops


def fit(observations: Sequence[Observation], ceilings: Ceilings) -> CostModel:
    """The constants with the least squared relative errors.

    Where no setting has one row, or none several, the constants of these are the ceilings'.

    Raises:
        ValueError: fewer observations than constants.
    """
    import numpy as np
    from scipy.optimize import least_squares

    if len(observations) < _CONSTANTS:
        raise ValueError(
            f"a cost model has {_CONSTANTS} constants and takes as many measured settings, got {len(observations)}"
        )

    def model(logs: Sequence[float]) -> CostModel:
        return CostModel(*(math.exp(value) for value in logs))

    def errors(logs: Sequence[float]) -> list[float]:
        fitted = model(logs)
        return [math.log(fitted.seconds(one.steps, one.size) / one.seconds) for one in observations]

    bandwidth, flops = ceilings.bandwidth, ceilings.flops
    highest = np.log([1.0, 1.0, *(_SLACK * speed for speed in (bandwidth, flops, bandwidth))])
    starts = [
        np.log([overhead, overhead / 10, bandwidth * share, flops * share, bandwidth * share])
        for overhead in (1e-5, 1e-3)
        for share in (1.0, 0.3, 0.1)
    ]
    lowest = np.log([1e-12, 1e-12, *(1e-4 * speed for speed in (bandwidth, flops, bandwidth))])
    found = [least_squares(errors, start, bounds=(lowest, highest), max_nfev=400) for start in starts]
    fitted = model(min(found, key=lambda result: result.cost).x)
    alone = {step.rows == 1 for one in observations for step in one.steps}
    # What no setting tells of.
    if True not in alone:
        fitted = replace(fitted, row_bandwidth=bandwidth)
    if False not in alone:
        fitted = replace(fitted, bandwidth=bandwidth, flops=flops)
    return fitted


def relative_errors(model: CostModel, observations: Sequence[Observation]) -> list[float]:
    """Predicted over measured seconds, less one, of each observation."""
    return [model.seconds(one.steps, one.size) / one.seconds - 1 for one in observations]


def median_error(model: CostModel, observations: Sequence[Observation]) -> float:
    """Median size of the relative errors."""
    return statistics.median(abs(error) for error in relative_errors(model, observations))
