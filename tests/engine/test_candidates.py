"""The tokens that may be drafted."""

import pytest
import torch

from skiplab.engine.candidates import Candidates
from skiplab.engine.packed_linear import prepack
from tests.tiny import LAYOUTS, VOCABULARY, tiny_backbone


@pytest.mark.parametrize("layout", LAYOUTS)
def test_candidates_have_the_heads_logits_and_all_others_none(layout: str) -> None:
    backbone = tiny_backbone(layout)
    candidates = Candidates(backbone, [2, 5, 9])
    candidates.admit([5, 11])
    h_BTD = torch.randn(2, 3, backbone.hidden_size)
    found_BTV, whole_BTV = candidates(h_BTD), backbone.head(h_BTD)
    own = torch.tensor([2, 5, 9, 11])
    torch.testing.assert_close(found_BTV[..., own], whole_BTV[..., own])
    others = torch.ones(VOCABULARY, dtype=torch.bool)
    others[own] = False
    assert found_BTV.shape == whole_BTV.shape
    assert bool((found_BTV[..., others] == -torch.inf).all())
    packed = Candidates(prepack(backbone, rows=1), [2, 5, 9, 11])
    torch.testing.assert_close(packed(h_BTD), found_BTV)


def test_the_latest_prompts_tokens_stay() -> None:
    backbone = tiny_backbone()
    candidates = Candidates(backbone, [2, 5])

    def drafted() -> set[int]:
        return set(torch.isfinite(candidates(torch.randn(backbone.hidden_size))).nonzero().flatten().tolist())

    assert drafted() == {2, 5}
    candidates.admit([7, 8])
    assert drafted() == {2, 5, 7, 8}
    candidates.admit([8, 9])
    assert drafted() == {2, 5, 8, 9}
    candidates.admit([8])
    candidates.admit([10])
    assert drafted() == {2, 5, 8, 10}
