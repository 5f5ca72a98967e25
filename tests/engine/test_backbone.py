"""`Backbone`, the adapter of Hugging Face's layers."""

import pytest
import torch

from skiplab.backbones.shapes import OPTSpec
from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.batch import left_pad
from skiplab.engine.parallel_forward import layer_states
from tests.tiny import PAD, prompts, tiny_backbone


@torch.inference_mode()
def test_layer_by_layer_equals_the_models_own_forward(backbone: Backbone) -> None:
    ids, mask = left_pad(prompts(4), PAD)
    *_, h_BTD = layer_states(backbone, ids, mask)
    expected = backbone.model(ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(backbone.head(h_BTD)[mask], expected[mask], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_project_kv_equals_what_the_layer_stores(backbone: Backbone) -> None:
    ids = torch.tensor(prompts(1, longest=1) * 2)
    # Two rows at different positions.
    position = torch.tensor([[3], [7]])
    rotary = backbone.rotary(position)
    h_BTD = backbone.embed(ids, position)
    cache = backbone.new_cache(2, [1] * backbone.num_layers)
    for index in range(backbone.num_layers):
        key, value = backbone.project_kv(index, h_BTD, rotary)
        h_BTD = backbone.layer(index, h_BTD, Context(None, cache, rotary))
        stored_key, stored_value = cache.update(key, value, index)
        assert torch.equal(stored_key, key)
        assert torch.equal(stored_value, value)


@torch.inference_mode()
def test_the_reduced_head_gives_the_logits_of_its_tokens(backbone: Backbone) -> None:
    h_ND, ids_K = torch.randn(5, 24), torch.tensor([40, 3, 17])
    before = backbone.head(h_ND)[:, ids_K]
    reduced = backbone.reduced_head(ids_K)
    torch.testing.assert_close(reduced(h_ND), before)
    backbone.model.get_parameter("lm_head.weight").zero_()
    torch.testing.assert_close(reduced(h_ND), before)


def test_padding_never_makes_a_state_infinite(backbone: Backbone) -> None:
    ids, mask = left_pad([[5, 6, 7, 8, 9], [5]], PAD)
    assert all(bool(h.isfinite().all()) for h in layer_states(backbone, ids, mask))


def test_post_norm_layout_is_opt_350ms() -> None:
    decoder = tiny_backbone("post_norm").model.model.decoder
    assert decoder.final_layer_norm is None
    assert decoder.project_in is not None
    assert decoder.project_out is not None


def test_bad_shapes_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_heads, got 10 and 3"):
        OPTSpec(num_layers=2, hidden_size=10, num_heads=3, max_positions=8)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        OPTSpec(num_layers=0, hidden_size=9, num_heads=3, max_positions=8)
