"""Where a step's time goes."""

import pytest
import torch

from skiplab.benchmarking.step_profile import kind_of, step_profile
from skiplab.benchmarking.timing import Workload, engine_system
from skiplab.engine.policy import FullDepth
from tests.tiny import PAD, prompts, tiny_backbone


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::addmm", "linear layers"),
        ("mkldnn::_linear_pointwise", "linear layers"),
        ("onednn::qlinear_pointwise", "linear layers"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_layer_norm", "norms"),
        ("aten::max", "choice of token"),
        ("aten::index_copy_", "copies"),
        ("aten::relu", "other operators"),
        ("nvjet_sm90_tst_64x8_64x16_2x1_v_bz_splitK_bias_TNT", "linear layers"),
        ("_row_products", "linear layers"),
        ("cudnn_generated_fort_native_sdpa_sm80_flash_fprop_wmma_f16_knob_3_64x64x64_4x1x1", "attention"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float, false>", "norms"),
        (
            "void at::native::reduce_kernel<512, 1, ReduceOp<float, MaxOps<float>>>",
            "choice of token",
        ),
        ("void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<64, 64, 256, 4>>", "attention"),
        ("_copy_to_column", "copies"),
    ],
)
def test_operators_are_sorted_by_name(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


def test_parts_add_up_to_the_step() -> None:
    workload = Workload(prompts(2), [9, 9], 2, PAD)
    parts = step_profile(engine_system(tiny_backbone(), FullDepth(6)), workload, torch.device("cpu"))
    assert {"linear layers", "attention", "norms", "choice of token", "host"} <= parts.keys()
    assert min(value for kind, value in parts.items() if kind != "host") > 0
    assert 0.05 < sum(parts.values()) < 1e3
