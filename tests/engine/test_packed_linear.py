"""Linear layers with other weight layouts: the same function, and the same tokens."""

import copy

import pytest
import torch
from torch import nn

from skiplab.engine import packed_linear as module
from skiplab.engine.backbone import Backbone
from skiplab.engine.decode import decode
from skiplab.engine.packed_linear import (
    Int8Linear,
    PackedLinear,
    StoredLinear,
    TransposedLinear,
    check_integers,
    integer_levels,
    prepack,
    quantize,
    repack,
)
from skiplab.engine.policy import ExitPolicy, FullDepth, Scheduled
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import EOS, LAYOUTS, PAD, CoordinateExit, prompts, tiny_backbone

POLICIES = {
    "full": FullDepth(6),
    "skip": Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=3, horizon=6), "skip"),
    "freeze": CoordinateExit(0.0),
    "compact": CoordinateExit(0.0, batch_policy="compact"),
}


@pytest.fixture(autouse=True)
def _pack_small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SMALL_BYTES", 0)


def kinds(backbone: Backbone) -> set[type]:
    return {type(part) for part in backbone.modules() if isinstance(part, nn.Linear | StoredLinear)}


def linear(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 40, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    "stored", [TransposedLinear, lambda linear: PackedLinear(linear, 4)], ids=["transposed", "packed"]
)
@torch.inference_mode()
def test_the_product_and_the_weight_are_the_same(stored, rows: int, bias: bool) -> None:
    plain = linear(bias)
    other = stored(plain)
    x = torch.randn(rows, 1, 24)
    torch.testing.assert_close(other(x), plain(x))
    assert torch.equal(other.weight, plain.weight)


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_integers_round_weights_by_feature_and_states_by_row(bias: bool) -> None:
    plain = linear(bias)
    other = Int8Linear(plain, rows=4)
    step_O = plain.weight.abs().amax(1) / integer_levels()
    assert ((other.weight - plain.weight).abs() <= 0.501 * step_O[:, None]).all()
    x = torch.randn(5, 24) * torch.tensor([1e-3, 1.0, 10.0, 1e3, 0.0])[:, None]
    for row in range(5):
        torch.testing.assert_close(other(x)[row], other(x[row : row + 1])[0])
        rounded = (x[row] * 127 / x[row].abs().max().clamp(min=1e-30)).round() * x[row].abs().max() / 127
        expected = rounded @ other.weight.T + (0 if plain.bias is None else plain.bias)
        torch.testing.assert_close(other(x)[row], expected, atol=1e-5 * float(x[row].abs().max()) + 1e-6, rtol=1e-4)


@pytest.mark.parametrize("features", [24, 768])
@torch.inference_mode()
def test_the_largest_integers_do_not_overflow(features: int) -> None:
    plain = nn.Linear(features, 40, bias=False)
    plain.weight.fill_(1.0)
    x = torch.ones(4, features)
    torch.testing.assert_close(Int8Linear(plain, rows=4)(x), plain(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_prepacked_decoding_gives_the_reference_paths_tokens(policy: ExitPolicy, rows: int, layout: str) -> None:
    backbone = tiny_backbone(layout)
    fast = prepack(backbone, rows=rows)
    assert kinds(fast) == {TransposedLinear if rows == 1 else PackedLinear}
    for batch in ([prompt] for prompt in prompts(4)) if rows == 1 else [prompts(4)]:
        expected = decode(backbone, policy, batch, max_new_tokens=14, eos_id=EOS, pad_id=PAD)
        actual = decode(fast, policy, batch, max_new_tokens=14, eos_id=EOS, pad_id=PAD)
        assert actual.sequences() == expected.sequences()
        assert torch.equal(actual.depth_BT, expected.depth_BT)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_is_packed_if_the_cpu_supports_it_and_gives_the_same_logits(layout: str) -> None:
    backbone = tiny_backbone(layout).to(torch.bfloat16)
    fast = prepack(backbone, rows=4)
    assert kinds(fast) == {PackedLinear if torch.ops.mkldnn._is_mkldnn_bf16_supported() else nn.Linear}
    h_BTD = torch.randn(4, 1, backbone.hidden_size).to(torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(fast.head(h_BTD), backbone.head(h_BTD), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_integer_decoding_batched_equals_single(layout: str) -> None:
    fast = quantize(tiny_backbone(layout), rows=4)
    assert kinds(fast) == {Int8Linear}
    batched = decode(fast, FullDepth(6), prompts(4), max_new_tokens=10, eos_id=EOS, pad_id=PAD).sequences()
    for prompt, tokens in zip(prompts(4), batched, strict=True):
        assert decode(fast, FullDepth(6), [prompt], max_new_tokens=10, eos_id=EOS, pad_id=PAD).sequences() == [tokens]


def test_the_original_is_unchanged_and_shares_all_other_weights() -> None:
    backbone = tiny_backbone()
    before = copy.deepcopy(backbone.state_dict())
    fast = prepack(backbone, rows=4)
    assert kinds(backbone) == {nn.Linear}
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in before.items())
    own = {tensor.data_ptr() for tensor in backbone.parameters()}
    assert {tensor.data_ptr() for tensor in fast.parameters()} < own
    ids_K = torch.tensor([3, 7])
    h_BD = torch.randn(2, backbone.hidden_size)
    torch.testing.assert_close(fast.reduced_head(ids_K)(h_BD), backbone.reduced_head(ids_K)(h_BD))


def test_small_weights_and_missing_operators_leave_layers_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_has", lambda *names: False)
        assert kinds(prepack(tiny_backbone(), rows=4)) == {nn.Linear}
        with pytest.raises(ValueError, match=r"int8 decoding needs oneDNN's integer products, which torch .* lacks"):
            quantize(tiny_backbone(), rows=4)
    monkeypatch.undo()
    assert kinds(prepack(tiny_backbone(), rows=4)) == {nn.Linear}


def test_integers_are_refused_off_the_cpu() -> None:
    with pytest.raises(ValueError, match="int8 decoding runs on a CPU, got device cuda; choose bfloat16 there"):
        check_integers(torch.device("cuda"))


@pytest.mark.parametrize("stored", [prepack, quantize], ids=["prepacked", "integers"])
@torch.inference_mode()
def test_repacking_updates_a_copy_after_its_original_was_overwritten(stored) -> None:
    backbone, other = tiny_backbone(), tiny_backbone(seed=1)
    copied = stored(backbone, rows=4)
    backbone.load_state_dict(other.state_dict())
    repack(copied)
    anew = stored(other, rows=4)
    rows = prompts(4)
    both = (decode(one, FullDepth(6), rows, max_new_tokens=9, eos_id=EOS, pad_id=PAD) for one in (copied, anew))
    assert len({str(result.tokens_BT.tolist()) for result in both}) == 1
