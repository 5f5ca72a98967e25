"""llama.cpp with a backbone's weights, as a system for the benchmark."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skiplab.benchmarking.timing import Clock
from skiplab.engine.backbone import Backbone

KINDS = ("F16", "Q8_0", "Q4_0")
"""Number formats of the weights, by their names in GGUF."""
# llama.cpp rounds the positions of a sequence up to a multiple of this.
_POSITIONS = 256
# Weights that share a scale in Q8_0 and Q4_0.
_BLOCK = 32


@final
class LlamaCpp:
    """llama.cpp on a CPU, greedy, with every row generating the longest length of the batch.

    Keys and values are float16, llama.cpp's default.

    Args:
        file: a GGUF file, such as one of `write_gguf`.
        rows: sequences per batch.
        positions: the most of a sequence.
    """

    def __init__(self, file: Path, *, rows: int, positions: int, threads: int) -> None:
        self._library = library = _library()
        self._model = _loaded(file)
        options = library.llama_context_default_params()
        options.n_ctx = rows * -(-positions // _POSITIONS) * _POSITIONS
        options.n_batch = rows * positions
        options.n_seq_max = rows
        options.n_threads = options.n_threads_batch = threads
        self._context = library.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp has no room for {rows} rows of {positions} positions")
        self._batch = library.llama_batch_init(rows * positions, 0, 1)
        self._vocab_size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))

    def __call__(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int], pad_id: int, clock: Clock) -> None:
        """Decode a batch, and read the clock when a step's tokens are known."""
        self.decode(prompts, max(lengths), clock.read)

    def decode(self, prompts: Sequence[Sequence[int]], new_tokens: int, on_step: Callable[[], None]) -> list[list[int]]:
        """New tokens by row."""
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        newest = self._run(list(prompts), [0] * len(prompts))
        on_step()
        outputs = [[token] for token in newest]
        ages = [len(prompt) for prompt in prompts]
        for step in range(new_tokens - 1):
            newest = self._run([[token] for token in newest], [age + step for age in ages])
            on_step()
            for output, token in zip(outputs, newest, strict=True):
                output.append(token)
        return outputs

    def _run(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[int]:
        """The tokens after each row's last one."""
        batch, place = self._batch, 0
        for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
            for offset, token in enumerate(tokens):
                batch.token[place] = token
                batch.pos[place] = start + offset
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = row
                batch.logits[place] = offset == len(tokens) - 1
                place += 1
        batch.n_tokens = place
        if self._library.llama_decode(self._context, batch):
            raise RuntimeError("llama.cpp could not decode a batch")
        logits = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (len(rows), self._vocab_size)).argmax(axis=1).tolist()

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)


def _library() -> Any:
    """llama-cpp-python's functions of llama.h, which the extra `bench` installs."""
    return import_module("llama_cpp")


@lru_cache(maxsize=len(KINDS))
def _loaded(file: Path) -> Any:
    """The model of a file, for the life of the process."""
    library = _library()
    library.llama_log_set(_silent(), None)
    model = library.llama_model_load_from_file(str(file).encode(), library.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot read {file}")
    return model


@lru_cache(maxsize=1)
def _silent() -> Any:
    """A receiver that drops llama.cpp's messages; kept, because the library calls it for as long as it lives."""
    return _library().llama_log_callback(lambda level, text, data: None)


def check_shape(backbone: Backbone) -> None:
    """Refuse backbones that cannot be written for llama.cpp.

    Raises:
        ValueError: the backbone is no Llama, or its rows are no multiples of the blocks that are quantized.
    """
    config = backbone.model.config
    if config.model_type != "llama":
        raise ValueError(f"the peer llama_cpp runs backbones of the Llama family, not {config.model_type!r}")
    for name in ("hidden_size", "intermediate_size"):
        if (size := getattr(config, name)) % _BLOCK:
            raise ValueError(f"the peer llama_cpp needs a {name} that is a multiple of {_BLOCK}, got {size}")


def write_gguf(backbone: Backbone, file: Path, kind: str) -> None:
    """A Llama's weights as a GGUF file without a tokenizer.

    Args:
        kind: the format of matrices, one of `KINDS`; vectors stay float32.

    Raises:
        ValueError: as `check_shape`.
    """
    import gguf

    check_shape(backbone)
    config = backbone.model.config
    quantization = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in backbone.model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = _in_llama_cpps_order(name, tensor.float(), config)
        # gguf's quantization of a vector is float32.
        kept = quantization if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            f"{names.get_name(name.removesuffix('.weight'))}.weight", gguf.quantize(values, kept), raw_dtype=kept
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _in_llama_cpps_order(name: str, weight: Tensor, config: Any) -> NDArray[np.float32]:
    """A weight as llama.cpp expects it: the two halves that rotary positions pair stand alternately."""
    values = weight.numpy()
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    return values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
