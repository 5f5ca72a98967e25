"""The model that the timing decodes with, which loads the weights of one setting after another."""

from pathlib import Path

import pytest

from skiplab.comparison.swappable_backbone import SwappableBackbone
from skiplab.engine import packed_linear
from skiplab.engine.backbone import Backbone
from skiplab.engine.decode import decode
from skiplab.engine.policy import FullDepth
from skiplab.training.weights import load_backbone
from tests.tiny import EOS, LAYOUTS, PAD, prompts, tiny_backbone


def tokens(backbone: Backbone) -> list[list[int]]:
    return decode(backbone, FullDepth(6), prompts(4), max_new_tokens=9, eos_id=EOS, pad_id=PAD).sequences()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_decodes_with_the_weights_that_it_loaded(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear, "_SMALL_BYTES", 0)
    expected: dict[Path, list[list[int]]] = {}
    for seed in (0, 1):
        backbone = tiny_backbone(layout, seed)
        backbone.model.save_pretrained(tmp_path / str(seed))
        expected[tmp_path / str(seed)] = tokens(backbone)
    one, other = expected
    assert expected[one] != expected[other]
    swappable = SwappableBackbone(lambda folder: load_backbone(folder).eval(), one)
    for folder in (one, other, other, one):
        swappable.load_weights(folder)
        assert tokens(swappable.backbone) == tokens(swappable.packed(4)) == expected[folder]
    assert swappable.packed(1) is not swappable.packed(4), "packed for the rows at hand"
