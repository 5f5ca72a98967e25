"""Bytes and operations of decode steps, and the minimum time they take.

Pure arithmetic on a backbone's shape. A step of `depth` layers reads the weights of these layers and of
the head once for the whole batch, and each row's keys and values of these layers. Embedding rows, states
and outputs of norms are ignored, because they stay in the CPU or GPU caches.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from skiplab.engine.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A backbone's sizes.

    Attributes:
        layer_bytes, head_bytes: weights of one layer, and of final norm and head.
        layer_weights, head_weights: number of weights multiplied per token.
        kv_bytes: keys and values of one layer and position.
        kv_width: keys and values per layer and position, multiplied with query and scores.
    """

    num_layers: int
    layer_bytes: int
    head_bytes: int
    layer_weights: int
    head_weights: int
    kv_bytes: int
    kv_width: int

    @staticmethod
    def of(backbone: Backbone, weight_bytes: int | None = None) -> "Footprint":
        """Sizes of a backbone, which may be on the meta device.

        Args:
            weight_bytes: of a weight in a linear layer when decoding; None is as the backbone has it.
        """
        layer, head = list(backbone.layer_weights(0)), list(backbone.head_weights())

        def nbytes(weights: Iterable[Tensor]) -> int:
            return sum(
                weight.numel() * weight_bytes if weight_bytes and weight.ndim == 2 else weight.nbytes
                for weight in weights
            )

        width = 2 * backbone.kv_heads * backbone.head_size
        return Footprint(
            num_layers=backbone.num_layers,
            layer_bytes=nbytes(layer),
            head_bytes=nbytes(head),
            layer_weights=sum(weight.numel() for weight in layer if weight.ndim == 2),
            head_weights=sum(weight.numel() for weight in head if weight.ndim == 2),
            kv_bytes=width * backbone.dtype.itemsize,
            kv_width=width,
        )


@dataclass(frozen=True)
class Step:
    """One decode step of a batch.

    Attributes:
        depth: layers run.
        rows: rows of the batch.
        positions: positions that a row attends to, including its own.
    """

    depth: float
    rows: int
    positions: int


def steps_of(depths: Sequence[float], *, rows: int, prompt: int) -> list[Step]:
    """The decode steps 1, 2, ... of a batch whose rows all have prompts of the same length."""
    return [Step(depth, rows, prompt + step) for step, depth in enumerate(depths, start=1)]


def step_bytes(step: Step, size: Footprint) -> float:
    """Bytes that a step reads."""
    return step.depth * (size.layer_bytes + step.rows * step.positions * size.kv_bytes) + size.head_bytes


def step_flops(step: Step, size: Footprint) -> float:
    """Floating-point operations of a step, two per multiplication and addition."""
    per_row = step.depth * (size.layer_weights + step.positions * size.kv_width) + size.head_weights
    return 2.0 * step.rows * per_row


def bytes_speedup(steps: Sequence[Step], size: Footprint) -> float:
    """Bytes that the full model reads in the same steps, divided by those read: the bound of the speedup."""
    full = sum(step_bytes(Step(size.num_layers, step.rows, step.positions), size) for step in steps)
    return full / sum(step_bytes(step, size) for step in steps)


@dataclass(frozen=True)
class Ceilings:
    """The peak rates of a machine.

    Attributes:
        bandwidth: bytes read per second.
        flops: floating-point operations per second in matrix products.
    """

    bandwidth: float
    flops: float


def least_seconds(steps: Iterable[Step], size: Footprint, ceilings: Ceilings) -> float:
    """The least time of the steps: each takes as long as its bytes or its operations, whichever is longer.

    Source: the roofline model, Williams et al. 2009, doi 10.1145/1498765.1498785.
    """
    return sum(
        max(step_bytes(step, size) / ceilings.bandwidth, step_flops(step, size) / ceilings.flops) for step in steps
    )
