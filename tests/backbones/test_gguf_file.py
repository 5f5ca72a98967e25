"""GGUF files as checkpoints: read completely, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from skiplab.backbones.checkpoint import CheckpointError, PretrainedCheckpoint
from skiplab.backbones.pretrained import PretrainedSpec
from skiplab.backbones.shapes import LlamaSpec
from skiplab.data.tokenizers import byte_bpe_tokenizer
from tests.export.test_method import TEXT, byte_level_tokenizer

gguf: Any = pytest.importorskip("gguf", reason="the extra gguf is not installed")
pytest.importorskip("accelerate", reason="the extra gguf is not installed")

HEADS, KV_HEADS, HIDDEN, LAYERS = 4, 2, 32, 2
Change = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model(tied: bool) -> Any:
    torch.manual_seed(0)
    shape = LlamaSpec(
        num_layers=LAYERS, hidden_size=HIDDEN, num_heads=HEADS, num_kv_heads=KV_HEADS, max_positions=64, init_std=0.3,
        tie_embeddings=tied,
    )  # fmt: skip
    return shape.build(vocab_size=len(byte_level_tokenizer()), pad_id=0, bos_id=2, eos_id=1).model


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Query or key weights in the row order that llama.cpp stores for rotary positions."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    found = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = weight.numpy()
        if "q_proj" in name or "k_proj" in name:
            values = permuted(values, HEADS if "q_proj" in name else KV_HEADS)
        found[names.get_name(name, try_suffixes=(".weight",))] = values
    return found


def keys_of(model: Any, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    config = model.config
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    merges = [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    return {
        "llama.context_length": 64, "llama.block_count": LAYERS, "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": config.intermediate_size, "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS, "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.dimension_count": HIDDEN // HEADS, "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [3 if index < 3 else 1 for index in range(len(vocabulary))],
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": tokenizer.chat_template,
    }  # fmt: skip


def write(file: Path, tied: bool = False, change: Change | None = None, quantized: bool = False) -> Any:
    """Write a model as llama.cpp's converter does."""
    source = model(tied)
    keys, tensors = keys_of(source, byte_level_tokenizer()), tensors_of(source)
    architecture = "llama"
    if change is not None:
        change(keys, tensors)
        architecture = keys.pop("general.architecture", architecture)
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, values in tensors.items():
        if quantized and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return source


def loaded(file: Path) -> Any:
    checkpoint = PretrainedCheckpoint(name=str(file))
    return checkpoint.model(checkpoint.config())


@pytest.mark.parametrize("tied", [False, True])
def test_a_file_loads_as_the_model_it_was_written_from(tmp_path: Path, tied: bool) -> None:
    source = write(tmp_path / "a.gguf", tied)
    found = loaded(tmp_path / "a.gguf")
    assert found.state_dict().keys() == source.state_dict().keys()
    for name, weight in source.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == tied
    ids = torch.tensor([[5, 9, 200, 17]])
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(ids).logits, source.eval()(ids).logits)


def test_quantized_weights_are_close_to_the_original(tmp_path: Path) -> None:
    source = write(tmp_path / "a.gguf", quantized=True)
    found = loaded(tmp_path / "a.gguf")
    for name, weight in source.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weight, atol=0.02, rtol=0)


def test_the_tokenizer_in_the_file_is_the_original(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf")
    tokenizer, found = byte_level_tokenizer(), PretrainedCheckpoint(name=str(tmp_path / "a.gguf")).tokenizer()
    for text in [*TEXT[:1], " the  café\n\n2018 ", "</s> in a text"]:
        assert found(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert found.decode(found(text)["input_ids"]) == text
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (2, 1, 1)
    assert found.chat_template == tokenizer.chat_template


def test_texts_begin_with_bos_if_the_file_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", change=stating(tokenizer__ggml__add_bos_token=True))
    tokenizer = PretrainedCheckpoint(name=str(tmp_path / "a.gguf")).tokenizer()
    assert tokenizer("fox")["input_ids"] == [2, *byte_level_tokenizer()("fox")["input_ids"]]


def test_a_backbone_is_built_from_the_file_which_is_unpacked_once(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "a.gguf")
    spec = PretrainedSpec(checkpoint=PretrainedCheckpoint(name=str(tmp_path / "a.gguf")))
    assert spec.build(vocab_size=300, pad_id=1, bos_id=2, eos_id=1).num_layers == LAYERS
    (folder,) = (one for one in cache.iterdir() if one.is_dir())
    written = (folder / "model.safetensors").stat().st_mtime_ns
    before = spec.identity
    again = PretrainedSpec(checkpoint=PretrainedCheckpoint(name=str(tmp_path / "a.gguf")))
    assert again.identity == before
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    write(tmp_path / "a.gguf", quantized=True)
    assert again.identity != before


def lacking(keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    del tensors["blk.1.ffn_down.weight"]


def surplus(keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["rope_freqs.weight"] = np.ones(4, dtype=np.float32)


def biased(keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["blk.0.attn_q.bias"] = np.ones(HIDDEN, dtype=np.float32)


def reshaped(keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    tensors["blk.0.ffn_up.weight"] = np.ones((3, HIDDEN), dtype=np.float32)


def stating(**values: Any) -> Change:
    def change(keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        keys.update({name.replace("__", "."): value for name, value in values.items()})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacking, r"a.gguf lacks model.layers.1.mlp.down_proj.weight"),
        (surplus, r"a.gguf has unexpected tensors: rope_freqs.weight"),
        (biased, r"unexpected tensors: blk.0.attn_q.bias"),
        (reshaped, r"model.layers.0.mlp.up_proj.weight|cannot read"),
        (stating(llama__rope__scaling__type="linear"), "states llama.rope.scaling.type='linear', which .* ignores"),
        (stating(llama__attention__key_length=16), "states llama.attention.key_length=16, but its heads have size 8"),
        (stating(llama__expert_count=8), "states llama.expert_count=8"),
        (stating(general__architecture="gpt2"), "has the architecture 'gpt2'; skiplab reads GGUF files of llama"),
        (stating(split__count=3), "is one of 3 parts; join them"),
        (stating(tokenizer__ggml__pre="unheard-of"), "cannot be rebuilt .*pre 'unheard-of'.; put the original"),
        (stating(tokenizer__ggml__model="bert"), "cannot be rebuilt"),
    ],
)  # fmt: skip
def test_files_of_another_model_are_refused(tmp_path: Path, cache: Path, change: Change, message: str) -> None:
    write(tmp_path / "a.gguf", change=change)
    with pytest.raises(CheckpointError, match=message):
        loaded(tmp_path / "a.gguf")
    assert not any(one.is_dir() for one in cache.glob("*"))


def test_a_tokenizer_beside_the_file_is_used_if_it_fits_the_model(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", change=stating(tokenizer__ggml__pre="unheard-of"))
    byte_level_tokenizer().save_pretrained(tmp_path)
    assert PretrainedCheckpoint(name=str(tmp_path / "a.gguf")).tokenizer().pad_token == "<pad>"
    loaded(tmp_path / "a.gguf")
    byte_bpe_tokenizer(["another text"] * 9, 300).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"of \d+ tokens of .* differ from those in the tokenizer.json beside it"):
        loaded(tmp_path / "a.gguf")


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*none.gguf"):
        loaded(tmp_path / "none.gguf")
    write(tmp_path / "a.gguf")
    content = (tmp_path / "a.gguf").read_bytes()
    for damaged in (b"", b"version https://git-lfs", content[: len(content) // 2]):
        (tmp_path / "b.gguf").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"b.gguf"):
            loaded(tmp_path / "b.gguf")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.gguf")
    monkeypatch.setattr("skiplab.backbones.gguf_file.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"GGUF files need gguf, accelerate: pip install 'skiplab\[gguf\]'"):
        loaded(tmp_path / "a.gguf")
