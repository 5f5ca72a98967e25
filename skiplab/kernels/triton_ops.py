"""Triton kernels for a decode step on a GPU: with a single row, torch's own kernels stay far below memory bandwidth.

Sums run in float32. They are for inference, without gradients or autocast; weights and stores are contiguous.

Shapes: I and O input and output features, D features, B rows of a batch, H heads, K head size, S positions.
"""

from collections.abc import Sequence

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor


def row_products(x_1I: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """One row times each of up to three weights (O, I) of one shape, plus their biases (O) if they all have one:
    outputs (1, O).

    Raises:
        ValueError: more than three weights.
    """
    if len(weights) > 3:
        raise ValueError(f"a launch multiplies at most three weights, got {len(weights)}")
    count, (outputs, inputs) = len(weights), weights[0].shape
    y_C1O = torch.empty(count, 1, outputs, dtype=x_1I.dtype, device=x_1I.device)
    biased = biases[0] is not None
    # The kernel takes three of each in any case.
    three = [min(index, count - 1) for index in range(3)]
    three_weights, three_biases = (
        [each[index] for index in three] for each in (weights, biases if biased else weights)
    )
    # Measured on an H100 with OPT-1.3B's and OPT-6.7B's layers.
    features, tile, warps = (1, 4096, 8) if inputs >= 4096 else (2, min(1024, triton.next_power_of_2(inputs)), 4)
    _row_products[triton.cdiv(outputs, features), count](  # type: ignore[index]
        x_1I.contiguous(), *three_weights, *three_biases, y_C1O, inputs, outputs,
        FEATURES=features, TILE=tile, BIASED=biased, num_warps=warps,
    )  # fmt: skip
    return y_C1O.unbind()


def layer_norm(x: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    """`torch.nn.functional.layer_norm` over the last dimension of contiguous states (..., D)."""
    y, width = torch.empty_like(x), x.shape[-1]
    _layer_norm[x.numel() // width,](  # type: ignore[index]
        x, weight_D, bias_D, y, eps, width, TILE=triton.next_power_of_2(width), num_warps=8 if width > 2048 else 4
    )
    return y


def copy_to_column(
    key_BH1K: Tensor, value_BH1K: Tensor, keys_BHSK: Tensor, values_BHSK: Tensor, column_1: Tensor
) -> None:
    """Write one column's keys and values into stores, at the column that a tensor holds, if they have it."""
    rows, heads, positions, size = keys_BHSK.shape
    _copy_to_column[rows * heads,](  # type: ignore[index]
        key_BH1K.contiguous(), value_BH1K.contiguous(), keys_BHSK, values_BHSK, column_1, positions, size,
        TILE=triton.next_power_of_2(size), num_warps=1,
    )  # fmt: skip


@triton.jit
def _row_products(
    x, first_w, second_w, third_w, first_b, second_b, third_b, y, inputs: tl.constexpr, outputs,
    FEATURES: tl.constexpr, TILE: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    which = tl.program_id(1)
    weight, bias = first_w, first_b
    if which == 1:
        weight, bias = second_w, second_b
    if which == 2:
        weight, bias = third_w, third_b
    feature = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    column = tl.arange(0, TILE)
    rows = weight + feature[:, None].to(tl.int64) * inputs
    inside = feature[:, None] < outputs
    total = tl.zeros((FEATURES, TILE), tl.float32)
    for start in range(0, inputs, TILE):
        here = start + column
        states = tl.load(x + here, mask=here < inputs, other=0.0).to(tl.float32)
        weights = tl.load(rows + here[None, :], mask=inside & (here < inputs)[None, :], other=0.0)
        total += weights.to(tl.float32) * states[None, :]
    result = tl.sum(total, 1)
    if BIASED:
        result += tl.load(bias + feature, mask=feature < outputs, other=0.0).to(tl.float32)
    tl.store(y + which * outputs + feature, result.to(y.dtype.element_ty), mask=feature < outputs)


@triton.jit
def _layer_norm(x, weight, bias, y, eps, width: tl.constexpr, TILE: tl.constexpr):
    column = tl.arange(0, TILE)
    inside = column < width
    row = tl.program_id(0).to(tl.int64) * width
    states = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, states - tl.sum(states) / width, 0.0)
    scaled = centred * tl.rsqrt(tl.sum(centred * centred) / width + eps)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row + column, (scaled * gain + shift).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _copy_to_column(key, value, keys, values, column, positions, size: tl.constexpr, TILE: tl.constexpr):
    head, feature = tl.program_id(0), tl.arange(0, TILE)
    place = tl.load(column)
    inside = (feature < size) & (place < positions)
    source = head * size + feature
    target = (head.to(tl.int64) * positions + place) * size + feature
    tl.store(keys + target, tl.load(key + source, mask=inside), mask=inside)
    tl.store(values + target, tl.load(value + source, mask=inside), mask=inside)
