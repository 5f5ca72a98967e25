"""Weights on disk are complete, and are loaded into memory only once."""

from pathlib import Path

import pytest
import torch

from skiplab.backbones.shapes import OPTSpec
from skiplab.training.weights import load_backbone, load_or_train, overwrite, saved
from tests.tiny import BOS, EOS, LAYOUTS, PAD, tiny_backbone

STATUS, MARKS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(name: str) -> int:
    """Resident memory of this process in bytes: current (`VmRSS`) or peak (`VmHWM`)."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not MARKS.exists(), reason="the largest memory in use can be set back on Linux alone")
def test_loading_keeps_one_copy_of_the_weights_in_memory(tmp_path: Path) -> None:
    shape = OPTSpec(num_layers=2, hidden_size=1024, num_heads=8, max_positions=64, vocab_size=30_000)
    model = shape.build(vocab_size=30_000, pad_id=PAD, bos_id=BOS, eos_id=EOS).model
    size = sum(weight.nbytes for weight in model.parameters())
    assert size > 200e6
    model.save_pretrained(tmp_path)
    MARKS.write_text("5")
    before = resident("VmRSS")
    loaded = load_backbone(tmp_path)
    read = sum(float(weight.detach().sum()) for weight in loaded.parameters())
    assert read == sum(float(weight.detach().sum()) for weight in model.parameters())
    assert size * 0.5 < resident("VmHWM") - before < size * 1.3


def test_weights_are_trained_once(tmp_path: Path) -> None:
    folder, trained = tmp_path / "weights", []

    def train(checkpoints: Path) -> None:
        checkpoints.mkdir()
        trained.append(checkpoints)

    first, second = tiny_backbone(seed=1).model, tiny_backbone(seed=2).model
    assert not saved(folder)
    load_or_train(first, folder, train)
    assert saved(folder)
    load_or_train(second, folder, train)
    assert len(trained) == 1
    assert not trained[0].exists()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_overwritten_in_place(layout: str, tmp_path: Path) -> None:
    model, other = tiny_backbone(layout).model, tiny_backbone(layout, seed=1).model
    other.save_pretrained(tmp_path)
    places = [weight.data_ptr() for weight in model.parameters()]
    overwrite(model, tmp_path)
    assert places == [weight.data_ptr() for weight in model.parameters()]
    for one, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, theirs)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    shapes = [OPTSpec(num_layers=layers, hidden_size=8, num_heads=2, max_positions=8) for layers in (1, 2)]
    small, large = (shape.build(vocab_size=9, pad_id=PAD, bos_id=BOS, eos_id=EOS).model for shape in shapes)
    for model, folder, message in (
        (small, "large", "unexpected .*layers.1"),
        (large, "small", "lacks .*layers.1"),
    ):
        (small if folder == "small" else large).save_pretrained(tmp_path / folder)
        with pytest.raises(ValueError, match=f"{folder}/model.safetensors .*{message}.*trained again"):
            overwrite(model, tmp_path / folder)
