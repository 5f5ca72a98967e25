"""Pretrained weights from folders, and the messages for folders that cannot be used."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skiplab.backbones.checkpoint import CheckpointError, PretrainedCheckpoint
from skiplab.backbones.pretrained import PretrainedSpec
from skiplab.backbones.shapes import LlamaSpec, OPTSpec
from skiplab.data.tokenizers import byte_bpe_tokenizer
from skiplab.engine.backbone import Backbone
from tests.tiny import tiny_backbone

IDS = {"vocab_size": 48, "pad_id": 0, "bos_id": 1, "eos_id": 2}
SHAPE: dict[str, Any] = {"num_layers": 6, "hidden_size": 24, "num_heads": 6, "num_kv_heads": 3, "max_positions": 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_backbone("llama").model.save_pretrained(tmp_path)
    byte_bpe_tokenizer(["a text"], 300).save_pretrained(tmp_path)
    return tmp_path


def checkpoint(folder: Path, **options: Any) -> PretrainedCheckpoint:
    return PretrainedCheckpoint(name=str(folder), **options)


def weights(backbone: Backbone) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in backbone.layer_weights(3)])


def test_a_checkpoints_weights_are_loaded_with_and_without_a_stated_shape(folder: Path) -> None:
    any_shape = PretrainedSpec(checkpoint=checkpoint(folder), dropout=0.2)
    own = LlamaSpec(**SHAPE, vocab_size=48, pretrained=True, checkpoint=checkpoint(folder))
    for spec in (any_shape, own):
        assert torch.equal(weights(spec.build(**IDS)), weights(tiny_backbone("llama")))
    assert any_shape.positions == 64
    assert any_shape.build(**IDS).model.config.attention_dropout == 0.2
    assert any_shape.build(**IDS).model.dtype == torch.float32
    half = PretrainedSpec(checkpoint=checkpoint(folder, dtype="bfloat16"))
    assert half.build(**IDS).dtype == torch.bfloat16


def test_on_the_meta_device_nothing_is_loaded(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nothing that could be loaded")
    with torch.device("meta"):
        assert PretrainedSpec(checkpoint=checkpoint(folder)).build(**IDS).device.type == "meta"


def test_random_weights_have_the_checkpoints_shape(folder: Path) -> None:
    spec = PretrainedSpec(checkpoint=checkpoint(folder), pretrained=False)
    assert spec.tokenizer() is None
    assert spec.identity == ""
    torch.manual_seed(1)
    assert not torch.equal(weights(spec.build(**IDS)), weights(tiny_backbone("llama")))


def test_a_changed_checkpoint_has_another_identity(folder: Path) -> None:
    before = PretrainedSpec(checkpoint=checkpoint(folder)).identity
    tiny_backbone("llama", seed=1).model.save_pretrained(folder)
    assert PretrainedSpec(checkpoint=checkpoint(folder)).identity != before


def test_another_shape_is_refused(folder: Path) -> None:
    shape = {**SHAPE, "num_layers": 4}
    spec = LlamaSpec(**shape, vocab_size=48, pretrained=True, checkpoint=checkpoint(folder))
    with pytest.raises(CheckpointError, match=r"its num_hidden_layers is 6, not 4.* backbone.pretrained=false"):
        spec.build(**IDS)
    opt = OPTSpec(
        num_layers=6, hidden_size=24, num_heads=6, max_positions=64, pretrained=True, checkpoint=checkpoint(folder)
    )
    with pytest.raises(CheckpointError, match="its model_type is llama, not opt"):
        opt.build(**IDS)


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size=48 cannot hold the tokenizer's 300 entries"):
        PretrainedSpec(checkpoint=checkpoint(folder)).build(**{**IDS, "vocab_size": 300})


def test_unusable_folders_are_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    def message(name: str) -> str:
        with pytest.raises(CheckpointError) as caught:
            PretrainedCheckpoint(name=name).config()
        return str(caught.value)

    assert "no folder /nowhere" in message("/nowhere")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "holds no *.safetensors, and skiplab reads no pickles. Convert it once" in message(str(folder))
    (folder / "config.json").unlink()
    assert "holds no config.json" in message(str(folder))
    # Tests are offline.
    assert "backbone.checkpoint.name=DIR, or take random weights with backbone.pretrained=false" in message("some/opt")


def conversion(message: str, place: Path) -> None:
    """Run the command that a message gives, with a folder for its DIR."""
    (code,) = re.findall(r'python -c "(.*?)"', message)
    exec(code.replace("'DIR'", repr(str(place))), {})


def pickled(folder: Path) -> None:
    """Replace safetensors by pickles, as in older repositories."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_the_suggested_conversion_works(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("converted")
    pickled(folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoint(folder).model(None)
    conversion(str(caught.value), place)
    assert torch.equal(
        weights(PretrainedSpec(checkpoint=checkpoint(place)).build(**IDS)), weights(tiny_backbone("llama"))
    )
    assert checkpoint(place).tokenizer().eos_token == "</s>"


def test_a_hub_model_without_safetensors_says_where_to_find_some(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub's cache, as a download of the repository leaves it.
    cache, commit = tmp_path_factory.mktemp("hub"), "0" * 40
    repository = cache / "models--some--opt"
    pickled(folder)
    shutil.copytree(folder, repository / "snapshots" / commit)
    for name in ("refs/pr/3", "main"):
        (repository / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for revision, named in ((None, "main"), ("refs/pr/3", "refs/pr/3")):
        hub = PretrainedCheckpoint(name="some/opt", revision=revision)
        with pytest.raises(
            CheckpointError, match=rf"some/opt has no safetensors at revision {named}, .*=refs/pr/N. Or: C"
        ):
            hub.model(hub.config())


def test_unsupported_models_are_refused_before_weights_are_read(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="cannot run the layers of a 'gpt2' model"):
        checkpoint(folder).config()


def test_tokenizers_that_lack_a_token_are_refused(folder: Path) -> None:
    def without(kind: str) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), f"{kind}_token": None}))

    assert checkpoint(folder).tokenizer().padding_side == "left"
    without("pad")
    with pytest.raises(CheckpointError, match=r'has no pad token; set one .* such as "pad_token": \'</s>\''):
        checkpoint(folder).tokenizer()
    without("eos")
    with pytest.raises(CheckpointError, match="no end-of-sequence token"):
        checkpoint(folder).tokenizer()


def test_remote_code_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(CheckpointError, match=r"trust_remote_code|evil"):
        checkpoint(folder).config()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_loading_keeps_one_copy_of_the_weights_in_memory(tmp_path: Path) -> None:
    spec = OPTSpec(num_layers=8, hidden_size=512, num_heads=8, max_positions=64, vocab_size=20_000)
    with torch.no_grad():
        backbone = spec.build(**IDS)
    model: Any = backbone.model
    for stored in (torch.float32, torch.float16):
        model.to(stored).save_pretrained(tmp_path / str(stored))
    size = sum(weight.nbytes for weight in backbone.float().parameters())
    code = f"""
import os, re, torch
from pathlib import Path
from skiplab.backbones.checkpoint import PretrainedCheckpoint
from skiplab.backbones.pretrained import PretrainedSpec
import transformers.models.opt.modeling_opt
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
for folder in ("float32", "float16"):
    # A forked process has a peak of its own.
    if os.fork() == 0:
        spec = PretrainedSpec(checkpoint=PretrainedCheckpoint(name={str(tmp_path)!r} + "/torch." + folder))
        torch.randn(512, 512) @ torch.randn(512, 512)
        before = peak()
        backbone = spec.build(vocab_size=48, pad_id=0, bos_id=1, eos_id=2)
        sum(float(weight.sum()) for weight in backbone.parameters())
        print(peak() - before, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    same, other = map(int, out.split())
    assert 0.9 * size < same < 1.2 * size
    # A file in another number format is memory-mapped in addition: the system can drop these pages, but counts them.
    assert 0.9 * size < other < 1.7 * size
