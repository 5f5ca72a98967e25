"""Attention by groups of query heads equals the library's."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from skiplab.engine.grouped_attention import attention
from skiplab.engine.packed_linear import prepack
from tests.tiny import tiny_backbone

ROWS, HEADS, GROUPS, KEYS, SIZE = 3, 6, 2, 21, 8


class Layer(torch.nn.Module):
    """The attributes of an attention module that the library reads."""

    num_key_value_groups = HEADS // GROUPS
    is_causal = True


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize(("columns", "masked"), [(1, False), (1, True), (4, True), (20, True), (KEYS, False)])
def test_it_equals_the_librarys_attention(columns: int, masked: bool, scaling: float | None) -> None:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(ROWS, count, heads, SIZE).transpose(1, 2)
        for count, heads in ((columns, HEADS), (KEYS, GROUPS), (KEYS, GROUPS))
    )
    mask = None
    if masked:
        first_B11 = torch.tensor([0, 3, 1])[:, None, None]
        last_T1 = torch.arange(KEYS - columns, KEYS)[:, None]
        seen_BTS = (torch.arange(KEYS) >= first_B11) & (torch.arange(KEYS) <= last_T1)
        mask = torch.zeros(seen_BTS.shape).masked_fill(~seen_BTS, -torch.inf)[:, None]
    actual, expected = (
        function(Layer(), query, key, value, mask, scaling=scaling)[0]  # type: ignore[operator]
        for function in (attention, sdpa_attention_forward)
    )
    assert actual.shape == (ROWS, columns, HEADS, SIZE)
    torch.testing.assert_close(actual, expected)


def test_only_packed_copies_of_models_with_groups_use_it() -> None:
    for layout, name in (("pre_norm", "sdpa"), ("llama", "skiplab_grouped")):
        backbone = tiny_backbone(layout)
        assert prepack(backbone, rows=1).model.config._attn_implementation == name
        assert backbone.model.config._attn_implementation == "sdpa"
