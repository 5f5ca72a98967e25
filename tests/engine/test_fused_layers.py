"""A backbone with Triton kernels has the same outputs and shares the weights."""

import pytest
import torch
from torch import nn

from skiplab.engine.backbone import Backbone
from skiplab.engine.fused_layers import RowLinear, with_kernels
from skiplab.kernels.support import has_kernels
from tests.tiny import tiny_backbone

needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_kernels(torch.device("cuda"))),
    reason="no GPU that Triton's kernels run on",
)


def test_without_a_gpu_the_backbone_is_returned_unchanged(backbone: Backbone) -> None:
    assert with_kernels(backbone) is backbone


@needs_kernels
def test_weights_are_shared(backbone: Backbone) -> None:
    backbone = backbone.to("cuda")
    twin = with_kernels(backbone)
    assert {id(one) for one in twin.parameters()} == {id(one) for one in backbone.parameters()}
    assert {id(one) for one in twin.buffers()} == {id(one) for one in backbone.buffers()}
    assert not any(isinstance(module, (nn.Linear, nn.LayerNorm)) for module in twin.modules())
    assert any(isinstance(module, nn.Linear) for module in backbone.modules())


@needs_kernels
@torch.inference_mode()
def test_projections_of_one_state_are_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    from skiplab.kernels import triton_ops

    launches: list[int] = []
    launch = triton_ops.row_products

    def counted(x, weights, biases):
        launches.append(len(weights))
        return launch(x, weights, biases)

    monkeypatch.setattr(triton_ops, "row_products", counted)
    backbone = tiny_backbone("pre_norm").to("cuda")
    own = backbone.model.model.decoder.layers[0].self_attn
    attention = with_kernels(backbone).model.model.decoder.layers[0].self_attn
    for x in (torch.randn(1, 1, 24, device="cuda") for _ in range(2)):
        for name in ("q_proj", "k_proj", "v_proj"):
            torch.testing.assert_close(getattr(attention, name)(x), getattr(own, name)(x), atol=1e-5, rtol=1e-5)
    assert launches == [3, 3]
    # For a single projection, or for other states, each layer computes only its own product.
    launches.clear()
    first, second = torch.randn(1, 1, 24, device="cuda"), torch.randn(1, 1, 24, device="cuda")
    attention.q_proj(first)
    torch.testing.assert_close(attention.k_proj(second), own.k_proj(second), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.k_proj(first), own.k_proj(first), atol=1e-5, rtol=1e-5)
    assert launches == [3, 1, 1]


@needs_kernels
@torch.inference_mode()
def test_with_grouped_heads_only_keys_and_values_share_a_launch() -> None:
    attention = with_kernels(tiny_backbone("llama").to("cuda")).model.model.layers[0].self_attn
    joined = {name: len(getattr(attention, name)._next) for name in ("q_proj", "k_proj", "v_proj")}
    assert joined == {"q_proj": 0, "k_proj": 1, "v_proj": 0}


@needs_kernels
@torch.inference_mode()
def test_several_rows_use_the_librarys_product() -> None:
    linear = nn.Linear(24, 40).to("cuda")
    x = torch.randn(5, 1, 24, device="cuda")
    assert torch.equal(RowLinear(linear)(x), linear(x))
