"""Predict decode time for shapes, batch sizes and schedules that were not measured.

A step of several rows takes `per_step + depth * per_layer + bytes / bandwidth + operations / flops` seconds: launch
and loop overhead, then memory reads and arithmetic, which one core does one after the other. A GPU overlaps these two,
so that the longer one counts. With one row, the products are matrix-vector products with another bandwidth:
`per_step + depth * per_layer + bytes / row_bandwidth`. The constants are fitted to measured settings; none may be
faster than the machine's ceilings, because otherwise overheads could absorb the cost of bytes, and the model would not
transfer to other shapes. Settings of two shapes separate the constants best. They hold for one machine, number format
and engine.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from skiplab.benchmarking.roofline import Ceilings, Footprint, Step, step_bytes, step_flops, steps_of

# Number of fitted constants, and so the minimum number of settings.
CONSTANTS = 5
# Tolerance of a measured ceiling.
_SLACK = 1.1


@dataclass(frozen=True)
class Observation:
    """A measured setting.

    Attributes:
        depths: layers of each decode step.
        rows: rows in the batch.
        prompt: prompt tokens per row.
        size: of the backbone.
        seconds: total time of the steps.
    """

    depths: Sequence[float]
    rows: int
    prompt: int
    size: Footprint
    seconds: float

    @property
    def steps(self) -> list[Step]:
        return steps_of(self.depths, rows=self.rows, prompt=self.prompt)


@final
@dataclass(frozen=True)
class CostModel:
    """The fitted constants, in seconds, bytes per second and operations per second.

    Attributes:
        bandwidth, flops: for steps of several rows.
        row_bandwidth: for steps of one row.
        overlapped: whether memory reads and arithmetic overlap.
    """

    per_step: float
    per_layer: float
    bandwidth: float
    flops: float
    row_bandwidth: float
    overlapped: bool = False

    def seconds(self, steps: Sequence[Step], size: Footprint) -> float:
        """Predicted time of decode steps."""
        return sum(self.per_step + step.depth * self.per_layer + self._products(step, size) for step in steps)

    def _products(self, step: Step, size: Footprint) -> float:
        if step.rows == 1:
            return step_bytes(step, size) / self.row_bandwidth
        reading, multiplying = step_bytes(step, size) / self.bandwidth, step_flops(step, size) / self.flops
        return max(reading, multiplying) if self.overlapped else reading + multiplying


def fit(observations: Sequence[Observation], ceilings: Ceilings, *, overlapped: bool = False) -> CostModel:
    """The constants with the least squared relative errors.

    If no setting has one row, or none has several, the corresponding constants are the machine's ceilings. So are the
    operations per second of an overlapped model, where memory reads hide most arithmetic.

    Raises:
        ValueError: fewer observations than constants.
    """
    import numpy as np
    from scipy.optimize import least_squares

    if len(observations) < CONSTANTS:
        raise ValueError(
            f"a cost model has {CONSTANTS} constants and takes as many measured settings, got {len(observations)}"
        )

    def model(logs: Sequence[float]) -> CostModel:
        per_step, per_layer, bandwidth, flops, row_bandwidth = (math.exp(value) for value in logs)
        flops = ceilings.flops if overlapped else flops
        return CostModel(per_step, per_layer, bandwidth, flops, row_bandwidth, overlapped)

    def errors(logs: Sequence[float]) -> list[float]:
        fitted = model(logs)
        return [
            math.log(fitted.seconds(steps, one.size) / one.seconds)
            for steps, one in zip(steps_each, observations, strict=True)
        ]

    steps_each = [one.steps for one in observations]
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
    alone = {one.rows == 1 for one in observations}
    # Constants that no setting determines.
    if True not in alone:
        fitted = replace(fitted, row_bandwidth=bandwidth)
    if False not in alone:
        fitted = replace(fitted, bandwidth=bandwidth, flops=flops)
    return fitted


def relative_errors(model: CostModel, observations: Sequence[Observation]) -> list[float]:
    """Relative error of the predicted time of each observation."""
    return [model.seconds(one.steps, one.size) / one.seconds - 1 for one in observations]


def median_error(model: CostModel, observations: Sequence[Observation]) -> float:
    """Median absolute relative error."""
    return statistics.median(abs(error) for error in relative_errors(model, observations))


@final
@dataclass(frozen=True)
class Evidence:
    """A model with the settings to which it was fitted and those on which it was tested, by name."""

    model: CostModel
    ceilings: Ceilings
    fitted: Mapping[str, Observation]
    held_out: Mapping[str, Observation]

    @staticmethod
    def gather(
        fitted: Mapping[str, Observation], held_out: Mapping[str, Observation], ceilings: Ceilings, *, overlapped: bool
    ) -> "Evidence":
        """Fit to some settings and keep others to test on.

        Raises:
            ValueError: as `fit`.
        """
        return Evidence(fit(list(fitted.values()), ceilings, overlapped=overlapped), ceilings, fitted, held_out)

    def with_other(self, other: "Evidence") -> "Evidence":
        """A model fitted to the settings of both, of one machine and number format.

        Raises:
            ValueError: both have a setting of the same name.
        """
        if alike := {*self.fitted, *self.held_out} & {*other.fitted, *other.held_out}:
            raise ValueError(f"two runs to fit together both have a setting called {min(alike)!r}")
        ceilings = Ceilings(
            max(self.ceilings.bandwidth, other.ceilings.bandwidth), max(self.ceilings.flops, other.ceilings.flops)
        )
        return Evidence.gather(
            {**self.fitted, **other.fitted},
            {**self.held_out, **other.held_out},
            ceilings,
            overlapped=self.model.overlapped,
        )

    @property
    def median_error(self) -> float:
        """Relative errors on the held-out settings."""
        return median_error(self.model, list(self.held_out.values()))

    @property
    def held_out_errors(self) -> dict[str, float]:
        """Relative errors by name."""
        return dict(zip(self.held_out, relative_errors(self.model, list(self.held_out.values())), strict=True))

    def plain(self) -> dict[str, Any]:
        """As JSON has it; `of` reads it back."""
        return {
            "constants": asdict(self.model),
            "median_error": self.median_error,
            "held_out_errors": self.held_out_errors,
            "ceilings": asdict(self.ceilings),
            "fitted": {name: asdict(one) for name, one in self.fitted.items()},
            "held_out": {name: asdict(one) for name, one in self.held_out.items()},
        }

    @staticmethod
    def of(plain: Mapping[str, Any], source: str = "") -> "Evidence":
        """From what `plain` gave; a source goes before the settings' names."""

        def observations(kind: str) -> dict[str, Observation]:
            return {
                f"{source} {name}".strip(): Observation(**{**one, "size": Footprint(**one["size"])})
                for name, one in plain[kind].items()
            }

        model, ceilings = CostModel(**plain["constants"]), Ceilings(**plain["ceilings"])
        return Evidence(model, ceilings, observations("fitted"), observations("held_out"))
