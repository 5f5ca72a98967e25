"""Our float32 attention equals the library's."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from skiplab.engine.batch import collate
from skiplab.engine.parallel_forward import causal_mask, forward
from skiplab.engine.training_attention import attention, float32_attention
from tests.tiny import LAYOUTS, PAD, prompts, tiny_backbone

ROWS, HEADS, GROUPS, COLUMNS, SIZE = 3, 6, 2, 7, 8


class Layer(torch.nn.Module):
    """The attributes of an attention module that both implementations read."""

    num_key_value_groups = HEADS // GROUPS
    is_causal = True


def run(function: Any, dtype: torch.dtype, mask: Tensor | None, scaling: float | None) -> list[Tensor]:
    """Output, and gradients of queries, keys and values."""
    torch.manual_seed(0)
    inputs = [torch.randn(ROWS, COLUMNS, heads, SIZE).to(dtype) for heads in (HEADS, GROUPS, GROUPS)]
    query, key, value = (tensor.transpose(1, 2).requires_grad_() for tensor in inputs)
    out, _ = function(Layer(), query, key, value, mask, dropout=0.0, scaling=scaling)
    assert out.shape == (ROWS, COLUMNS, HEADS, SIZE)
    assert out.dtype == dtype
    (torch.arange(SIZE) * out.float().sin()).sum().backward()
    assert query.grad is not None
    assert key.grad is not None
    assert value.grad is not None
    return [out.detach(), query.grad, key.grad, value.grad]


def padded_mask(dtype: torch.dtype) -> Tensor | None:
    valid_BT = torch.arange(COLUMNS) >= torch.tensor([[0], [3], [1]])
    return causal_mask(valid_BT, dtype)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("scaling", [None, 1.0, 0.3])
def test_it_equals_the_librarys_attention(padded: bool, scaling: float | None) -> None:
    mask = padded_mask(torch.float32) if padded else None
    expected = run(sdpa_attention_forward, torch.float32, mask, scaling)
    torch.testing.assert_close(run(attention, torch.float32, mask, scaling), expected)


@pytest.mark.parametrize("padded", [True, False])
def test_only_inputs_and_outputs_are_rounded_to_bfloat16(padded: bool) -> None:
    masks = [padded_mask(dtype) if padded else None for dtype in (torch.bfloat16, torch.float32)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run(attention, torch.bfloat16, masks[0], None)
    exact = run(lambda layer, *inputs, **options: _rounded(inputs, options), torch.bfloat16, masks[1], None)
    # An output rounded to the neighbouring value changes all gradients slightly.
    torch.testing.assert_close(actual, exact, atol=2**-5, rtol=2**-7)


def _rounded(inputs: Any, options: Any) -> tuple[Tensor, None]:
    query, key, value, mask = inputs
    out, _ = sdpa_attention_forward(Layer(), query.float(), key.float(), value.float(), mask, **options)
    return out.bfloat16(), None


@torch.inference_mode()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("columns_L", [None, [12, 8, 3, 11, 0, 12]])
def test_a_backbones_states_are_the_same(layout: str, columns_L: list[int] | None) -> None:
    backbone, batch = tiny_backbone(layout), collate(prompts(4), [[5] * (14 - 9)] * 4, PAD)
    columns_L = columns_L and [min(columns, batch.input_BT.shape[1]) for columns in columns_L]
    expected = forward(backbone, batch.input_BT, batch.prompt_mask_BP, columns_L=columns_L)
    with float32_attention(backbone.model):
        actual = forward(backbone, batch.input_BT, batch.prompt_mask_BP, columns_L=columns_L)
    assert not torch.equal(actual, expected)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_the_librarys_attention_is_restored_afterwards() -> None:
    backbone = tiny_backbone()
    names = []

    def fail() -> None:
        with float32_attention(backbone.model):
            names.append(backbone.model.config._attn_implementation)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert names == ["skiplab_float32"]
    assert backbone.model.config._attn_implementation == "sdpa"
