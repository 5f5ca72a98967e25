"""Number formats for decoding."""

from dataclasses import dataclass

import torch

from skiplab.engine.backbone import Backbone
from skiplab.engine.packed_linear import prepack, quantize


@dataclass(frozen=True)
class NumberFormat:
    """How weights and states are stored.

    Attributes:
        states: dtype of everything except the weights of linear layers.
        integers: whether these weights and their products are 8-bit integers; only on a CPU.
    """

    states: torch.dtype
    integers: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight in a linear layer."""
        return 1 if self.integers else self.states.itemsize

    def fast_path(self, backbone: Backbone, rows: int) -> Backbone:
        """A copy of a backbone in `states`, packed for decoding about `rows` rows at a time.

        Raises:
            ValueError: the device does not support the format.
        """
        return quantize(backbone, rows=rows) if self.integers else prepack(backbone, rows=rows)


FORMATS = {
    "float32": NumberFormat(torch.float32),
    "bfloat16": NumberFormat(torch.bfloat16),
    "float16": NumberFormat(torch.float16),
    "int8": NumberFormat(torch.float32, integers=True),
}
