"""GGUF files (llama.cpp): read by transformers, and refused if its reader would ignore some of their contents.

The keys are defined in the GGUF specification, ggml/docs/gguf.md in llama.cpp's repository.
"""

import gc
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from skiplab.backbones.gguf_tokenizer import gguf_tokenizer
from skiplab.backbones.whole_weights import CheckpointError, refuse_partial, refuse_report

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Keys of an architecture that transformers reads, and keys whose value the model has in any case.
_UNDERSTOOD = (
    "context_length", "block_count", "feed_forward_length", "embedding_length", "rope.freq_base",
    "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "vocab_size",
)  # fmt: skip
_HEAD_SIZES = ("rope.dimension_count", "attention.key_length", "attention.value_length")
_WITHOUT_EFFECT: Mapping[str, Any] = MappingProxyType({"rope.scaling.type": "none", "expert_count": 0})


class GGUFHeader(NamedTuple):
    """The metadata of a file.

    Attributes:
        fields: values by key.
        tensors: names.
    """

    fields: Mapping[str, Any]
    tensors: tuple[str, ...]


def unpack_gguf(file: Path, folder: Path) -> None:
    """Make a folder of float32 weights, configuration and tokenizer from a file of any quantization.

    Raises:
        CheckpointError: some of the file's contents would be ignored, or its tokenizer cannot be rebuilt.
    """
    header = read_header(file)
    _check_keys(file, header)
    tokenizer = gguf_tokenizer(file, header.fields)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # the readers raise errors of many types for damaged files
        raise CheckpointError(f"transformers cannot read {file}: {type(error).__name__}: {error}") from error
    model, report = loaded
    del loaded
    refuse_report(file, model, report)
    refuse_partial(file, missing=(), surplus=_dropped(header, model), shapes={})
    _check_head_size(file, header, model.config)
    # The unpacked weights are not quantized; transformers would refuse to save a model marked as quantized.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    del model
    gc.collect()
    tokenizer.save_pretrained(folder)


def read_header(file: Path) -> GGUFHeader:
    """A file's keys and tensor names.

    Raises:
        CheckpointError: it is not a GGUF file, or a part of one, or the packages to read it are not installed.
    """
    if missing := [name for name in ("gguf", "accelerate") if find_spec(name) is None]:
        raise CheckpointError(f"GGUF files need {', '.join(missing)}: pip install 'skiplab[gguf]'")
    from gguf import GGUFReader

    if not file.is_file():
        raise CheckpointError(f"no file {file}: backbone.checkpoint.name is a folder, a GGUF file or a hub name")
    try:
        reader = GGUFReader(file)
        fields = {key: field.contents() for key, field in reader.fields.items()}
    except Exception as error:  # for damaged files it raises numpy's errors
        raise CheckpointError(
            f"{file} is not a complete GGUF file ({type(error).__name__}: {error}); download it again"
        ) from error
    if (parts := fields.get("split.count", 1)) > 1:
        raise CheckpointError(
            f"{file} is one of {parts} parts; join them: llama-gguf-split --merge FIRST_PART {file.stem}-whole.gguf"
        )
    return GGUFHeader(fields, tuple(tensor.name for tensor in reader.tensors))


def _check_keys(file: Path, header: GGUFHeader) -> None:
    architecture = header.fields.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise CheckpointError(
            f"{file} has the architecture {architecture!r}; skiplab reads GGUF files of {', '.join(_ARCHITECTURES)}"
        )
    for key, value in header.fields.items():
        prefix, _, name = key.partition(".")
        if prefix != architecture or name in _UNDERSTOOD or name in _HEAD_SIZES:
            continue
        if name not in _WITHOUT_EFFECT or value != _WITHOUT_EFFECT[name]:
            raise CheckpointError(
                f"{file} states {key}={value!r}, which transformers' reader ignores, so the model would differ. "
                "Take the checkpoint from which it was made"
            )


def _check_head_size(file: Path, header: GGUFHeader, config: Any) -> None:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    architecture = header.fields["general.architecture"]
    for name in _HEAD_SIZES:
        found = header.fields.get(f"{architecture}.{name}", size)
        if found != size:
            raise CheckpointError(f"{file} states {architecture}.{name}={found}, but its heads have size {size}")


def _dropped(header: GGUFHeader, model: Any) -> list[str]:
    """Tensors that belong to no weight of the model; transformers ignores them silently."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(kinds[header.fields["general.architecture"]], model.config.num_hidden_layers)
    read = {names.get_name(name, try_suffixes=(".weight", ".bias")) for name in model.state_dict()}
    return [name for name in header.tensors if name not in read]
