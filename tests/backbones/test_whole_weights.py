"""Every reader of checkpoints refuses one with missing weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from skiplab.backbones.checkpoint import CheckpointError, PretrainedCheckpoint
from skiplab.backbones.shapes import LlamaSpec
from skiplab.backbones.whole_weights import copy_whole, load_whole
from skiplab.training.weights import load_backbone, load_or_train, overwrite
from tests.tiny import tiny_backbone

Weights = dict[str, torch.Tensor]


def _lacking(weights: Weights) -> Weights:
    return {name: weight for name, weight in weights.items() if ".layers.3." not in name}


def _prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: weight for name, weight in weights.items()}


def _reshaped(weights: Weights) -> Weights:
    return weights | {"model.norm.weight": torch.ones(5)}


def _surplus(weights: Weights) -> Weights:
    return weights | {"model.layers.9.mlp.up_proj.weight": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lacking, r"lacks model.layers.3.input_layernorm.weight, .* and \d+ more \(\d+ tensors\).* whole checkpoint"),
        (_prefixed("_orig_mod."), "_orig_mod. is torch.compile's; save model._orig_mod"),
        (_prefixed("module."), "module. is DataParallel's; save model.module"),
        (_prefixed("base_model.model."), r"base_model.model. is PEFT's; save model.merge_and_unload\(\)"),
        (_reshaped, r"other shapes than its model: model.norm.weight \(found \(5,\), expected \(24,\)\)"),
        (_surplus, "unexpected tensors: model.layers.9.mlp.up_proj.weight"),
    ],
    ids=["lacking", "compiled", "parallel", "adapted", "reshaped", "surplus"],
)
def test_weights_that_do_not_fit_the_model_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    model: Any = tiny_backbone("llama").model
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    checkpoint = PretrainedCheckpoint(name=str(tmp_path))
    for read in (
        lambda: checkpoint.model(checkpoint.config()),
        lambda: load_backbone(tmp_path),
        lambda: overwrite(model, tmp_path),
        lambda: load_or_train(model, tmp_path, lambda folder: None),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            read()
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a Git LFS pointer.* `git lfs pull`",
        ),
        (None, "truncated or damaged"),
        (b"", "truncated or damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    model = tiny_backbone("llama").model
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    for read in (lambda: load_whole(tmp_path), lambda: copy_whole(model, file)):
        with pytest.raises(CheckpointError, match=f"model.safetensors is .*{message}"):
            read()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    tiny_backbone("llama").model.save_pretrained(tmp_path, max_shard_size="10KB")
    load_whole(tmp_path)
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(CheckpointError, match=f"no file .*{last.name}"):
        load_whole(tmp_path)


def test_quantized_checkpoints_are_refused(tmp_path: Path) -> None:
    tiny_backbone("llama").model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    scheme = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | scheme))
    with pytest.raises(CheckpointError, match=r"is quantized \(gptq\), and skiplab reads float32"):
        PretrainedCheckpoint(name=str(tmp_path)).config()
    with pytest.raises(CheckpointError, match=r"quantized|cannot load"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_tied_and_untied_heads_are_loaded(tmp_path: Path, tied: bool) -> None:
    spec = LlamaSpec(num_layers=2, hidden_size=8, num_heads=2, max_positions=8, tie_embeddings=tied)
    model: Any = spec.build(vocab_size=9, pad_id=0, bos_id=1, eos_id=2).model
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    loaded: Any = load_whole(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert (loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()) == tied
