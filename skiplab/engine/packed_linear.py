"""Linear layers with weights packed for fast decoding on a CPU; all other modules are the backbone's own.

The layer modules of transformers stay as they are: only their `nn.Linear` children are replaced, and the attention
function that they call (`grouped_attention.py`). The oneDNN operators are internal in torch; where they are missing,
weights stay as they are.

Shapes: N rows of the product, I and O input and output features.
"""

import copy
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from skiplab.engine.backbone import Backbone
from skiplab.engine.grouped_attention import group_queries

# With smaller weights, a call of the packed product costs more than the layout saves.
_SMALL_BYTES = 2**17
_TINY = 1e-30


def prepack(backbone: Backbone, *, rows: int) -> Backbone:
    """A copy for inference, packed for decoding about `rows` rows at a time.

    It shares every tensor with the original except the weights of linear layers. Its results differ from the
    original's only by the order of summation. On devices other than a CPU this returns the original.
    """
    if backbone.device.type != "cpu":
        return backbone

    def stored(linear: nn.Linear) -> nn.Module:
        if linear.weight.nbytes < _SMALL_BYTES:
            return linear
        if linear.weight.dtype == torch.float32 and rows == 1:
            return TransposedLinear(linear)
        return PackedLinear(linear, rows) if _packs(linear.weight.dtype) else linear

    return _replace_linear(backbone, stored)


def quantize(backbone: Backbone, *, rows: int) -> Backbone:
    """A copy whose linear layers multiply 8-bit integers, for decoding about `rows` rows at a time on a CPU.

    Weights are rounded symmetrically per output feature, to `integer_levels`; states are rounded per row at run time.

    Raises:
        ValueError: as `check_integers`.
    """
    check_integers(backbone.device)
    return _replace_linear(backbone, lambda linear: Int8Linear(linear, rows))


def check_integers(device: torch.device) -> None:
    """Refuse devices that cannot multiply 8-bit integers.

    Raises:
        ValueError: the device is not a CPU, or torch lacks oneDNN's integer products.
    """
    if device.type != "cpu":
        raise ValueError(f"int8 decoding runs on a CPU, got device {device}; choose bfloat16 there")
    if not _has("onednn", "qlinear_pointwise"):
        raise ValueError(f"int8 decoding needs oneDNN's integer products, which torch {torch.__version__} lacks here")


def integer_levels() -> int:
    """Largest magnitude of an integer weight: 127, or 63 on an x86 CPU without AVX-512 VNNI, which adds pairs of
    products in 16 bits and would saturate (oneDNN's developer guide, "Nuances of int8 computations")."""
    return 127 if torch.cpu._is_vnni_supported() or platform.machine() not in ("x86_64", "AMD64") else 63


def repack(backbone: Backbone) -> None:
    """Update a copy made by `prepack` or `quantize` after the weights of its original were overwritten in place."""
    for module in backbone.modules():
        if isinstance(module, StoredLinear):
            module.store()


class StoredLinear(nn.Module, ABC):
    """A linear layer for inference that stores its weight in a special layout.

    Args:
        linear: the original, whose bias it shares.
        rows: approximate number of rows per product.
    """

    def __init__(self, linear: nn.Linear, rows: int = 1) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        self.rows = rows
        # In a tuple, so that it is not registered as a submodule.
        self._original = (linear,)
        self.store()

    def store(self) -> None:
        """Pack the original's current weight."""
        with torch.no_grad():
            self._store(self.original.weight)

    @property
    def original(self) -> nn.Linear:
        """The layer that it was made from."""
        return self._original[0]

    @abstractmethod
    def _store(self, weight_OI: Tensor) -> None:
        """Keep a weight."""

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The weight (O, I), computed from what is kept."""

    @abstractmethod
    def product(self, x_NI: Tensor) -> Tensor:
        """Product and bias (N, O)."""

    @final
    def forward(self, x: Tensor) -> Tensor:
        """States (..., I) to (..., O)."""
        return self.product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)


def weight_rows(linear: nn.Module, ids_K: Tensor) -> Tensor:
    """A copy of some rows (K, I) of a linear layer's weight; of a stored one, of its original's."""
    original = linear.original if isinstance(linear, StoredLinear) else linear
    return original.weight[ids_K].detach()  # type: ignore[index, no-any-return, union-attr]


@final
class TransposedLinear(StoredLinear):
    """The weight as (I, O): for one row, the product reads it in order."""

    def _store(self, weight_OI: Tensor) -> None:
        self._weight_IO = weight_OI.t().contiguous()

    @property
    def weight(self) -> Tensor:
        return self._weight_IO.t()

    def product(self, x_NI: Tensor) -> Tensor:
        if self.bias is None:
            return x_NI @ self._weight_IO
        return torch.addmm(self.bias, x_NI, self._weight_IO)


@final
class PackedLinear(StoredLinear):
    """The weight in oneDNN's blocked layout, reordered once instead of at every call."""

    def _store(self, weight_OI: Tensor) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), self.rows)

    @property
    def weight(self) -> Tensor:
        return self._packed.to_dense()

    def product(self, x_NI: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, self.bias, "none", [], "")


@final
class Int8Linear(StoredLinear):
    """Weights and states as 8-bit integers, products summed in 32 bits.

    Each row is scaled by its own largest state, so that rows do not affect each other.
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__(linear, rows)
        self._zero_O = torch.zeros(self.out_features, dtype=torch.int64)
        self._one = torch.ones(())
        # States become unsigned integers around 128, for which products are faster; adding 0.5 makes truncation round.
        self._middle, self._middle_and_half_I = torch.tensor(128), torch.full((self.in_features,), 128.5)

    def _store(self, weight_OI: Tensor) -> None:
        self._dtype = weight_OI.dtype
        weight_OI = weight_OI.float()
        self._scale_O = weight_OI.abs().amax(1).clamp_(min=_TINY) / integer_levels()
        self._weight_OI = (weight_OI / self._scale_O[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(self._weight_OI, [self.rows, self.in_features])

    @property
    def weight(self) -> Tensor:
        return (self._weight_OI * self._scale_O[:, None]).to(self._dtype)

    def product(self, x_NI: Tensor) -> Tensor:
        x_NI = x_NI.float()
        scale_N1 = x_NI.abs().amax(1, keepdim=True).clamp_(min=_TINY).div_(127)
        rounded_NI = torch.addcmul(self._middle_and_half_I, x_NI, scale_N1.reciprocal()).to(torch.uint8)
        y_NO = torch.ops.onednn.qlinear_pointwise(
            rounded_NI, self._one, self._middle, self._packed, self._scale_O, self._zero_O,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        y_NO = y_NO.mul_(scale_N1) if self.bias is None else torch.addcmul(self.bias, y_NO, scale_N1)
        return y_NO.to(self._dtype)


def replaced(backbone: Backbone, other: Callable[[nn.Module], nn.Module]) -> Backbone:
    """A copy for inference that shares every tensor, with some modules replaced.

    Args:
        other: returns the replacement of a module, or the module itself.
    """
    shared = {id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())}
    twin = copy.deepcopy(backbone, shared)
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if (instead := other(child)) is not child:
                setattr(module, name, instead)
    return twin.eval()


def _replace_linear(backbone: Backbone, stored: Callable[[nn.Linear], nn.Module]) -> Backbone:
    twin = replaced(backbone, lambda module: stored(module) if isinstance(module, nn.Linear) else module)
    group_queries(twin.model)
    return twin


def _packs(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        # On an x86 CPU this needs at least AVX-512.
        return _has("mkldnn", "_linear_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 and _has("mkldnn", "_linear_pointwise")


def _has(namespace: str, operator: str) -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(getattr(torch.ops, namespace), operator)
