"""The backbone's linear layers and norms on Triton kernels for a decode step on a GPU.

Launching these kernels costs the host more than launching torch's own, so they pay off only in recorded steps
(`cuda_graphs.py`). The layer modules of transformers stay as they are: only their children are replaced.

Shapes: I and O input and output features, D features.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.engine.backbone import Backbone
from skiplab.engine.packed_linear import replaced
from skiplab.kernels.support import has_kernels

# These layers are called in this order on the same states.
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def with_kernels(backbone: Backbone) -> Backbone:
    """A copy for inference that shares all weights and runs on Triton kernels; the original where these cannot run."""
    if not has_kernels(backbone.device):
        return backbone
    twin = replaced(backbone, _on_kernels)
    for module in twin.modules():
        _join([child for name in _PROJECTIONS if isinstance(child := getattr(module, name, None), RowLinear)])
    return twin


@final
class RowLinear(nn.Module):
    """A linear layer that multiplies a single row with a kernel; one launch can also compute the layers after it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        # In a tuple, so that they are not registered as submodules.
        self._next: tuple[RowLinear, ...] = ()
        self._ready: tuple[Tensor, Tensor] | None = None

    def precede(self, layers: "Sequence[RowLinear]") -> None:
        """Also compute these layers of the same shape; each returns that output when called on the same input."""
        self._next = tuple(layers)

    def forward(self, x: Tensor) -> Tensor:
        """States (..., I) to (..., O)."""
        if x.numel() > x.shape[-1]:
            return F.linear(x, self.weight, self.bias)
        return self._product(x.reshape(1, -1)).view(*x.shape[:-1], -1)

    def _product(self, x_1I: Tensor) -> Tensor:
        from skiplab.kernels.triton_ops import row_products

        ready, self._ready = self._ready, None
        # The same address is the same tensor, because `ready` has kept it alive.
        if ready is not None and ready[0].data_ptr() == x_1I.data_ptr():
            return ready[1]
        layers = (self, *self._next)
        own_1O, *others = row_products(x_1I, [one.weight for one in layers], [one.bias for one in layers])
        for layer, other_1O in zip(self._next, others, strict=True):
            layer._ready = x_1I, other_1O
        return own_1O


@final
class LayerNorm(nn.Module):
    """A layer norm of any number of rows in one pass."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """States (..., D), normed."""
        from skiplab.kernels.triton_ops import layer_norm

        return layer_norm(x.contiguous(), self.weight, self.bias, self.eps)


def _on_kernels(module: nn.Module) -> nn.Module:
    # Subclasses may hold weights in other formats (quantized, for example).
    if type(module) is nn.Linear:
        return RowLinear(module)
    if type(module) is nn.LayerNorm and module.bias is not None:
        return LayerNorm(module)
    return module


def _join(layers: Sequence[RowLinear]) -> None:
    """Makes the first of consecutive layers of equal shape compute the others."""
    for _, run in groupby(layers, lambda layer: (layer.weight.shape, layer.bias is None)):
        first, *others = run
        first.precede(others)
