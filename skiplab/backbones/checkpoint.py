"""Pretrained weights from the hub or a folder, only as safetensors and without remote code."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from skiplab.backbones.adapters import check_type
from skiplab.backbones.gguf_file import read_header, unpack_gguf
from skiplab.backbones.peft_adapter import Adapter, is_adapter, merge, read_adapter
from skiplab.backbones.unpacked import Place, unpacked, version_of
from skiplab.backbones.whole_weights import CheckpointError, check_number_format, load_whole
from skiplab.utils.files import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ABC):
    """Weights, configuration and tokenizer in a folder or on the hub.

    Args:
        dtype: of the weights in memory.
    """

    dtype: DType = "float32"

    @abstractmethod
    def place(self) -> Place:
        """Its location, in a form that `from_pretrained` reads.

        Raises:
            CheckpointError: it does not exist.
        """

    def identity(self) -> str:
        """Identifies the version of the weights: a commit of the hub, or sizes and times of a folder's files."""
        name, _, identity = self.place()
        if identity is not None:
            return identity
        if not Path(name).is_dir():
            return str(getattr(self.config(), "_commit_hash", None))
        files = sorted(Path(name).glob("*.safetensors"))
        return fingerprint(**{file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files})

    def config(self) -> Any:
        """Its model configuration.

        Raises:
            CheckpointError: it cannot be loaded, or no `Backbone` class supports such a model.
        """
        name, revision, _ = self.place()
        config = _asked(
            name, revision, lambda: AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        )
        check_type(config.model_type)
        check_number_format(name, config)
        return config

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """Its tokenizer.

        Raises:
            CheckpointError: it cannot be loaded, or lacks the end-of-sequence token.
        """
        name, revision, _ = self.place()
        tokenizer = _tokenizer(name, revision)
        if tokenizer.eos_token_id is None:
            raise CheckpointError(f"the tokenizer of {name} has no end-of-sequence token; outputs would never end")
        if tokenizer.pad_token_id is None:
            raise CheckpointError(
                f"the tokenizer of {name} has no pad token; set one in the tokenizer_config.json of a local folder, "
                f'such as "pad_token": {tokenizer.eos_token!r} (padding is masked, so any token will do)'
            )
        return tokenizer

    def model(self, config: Any) -> PreTrainedModel:
        """A model of this configuration with the checkpoint's weights, on the CPU, ready for training.

        Raises:
            CheckpointError: the weights cannot be loaded, are not safetensors, or are incomplete.
        """
        name, revision, _ = self.place()

        def load() -> PreTrainedModel:
            return load_whole(name, config=config, revision=revision, dtype=getattr(torch, self.dtype)).train()

        return _asked(name, revision, load)


@final
@dataclass(frozen=True, kw_only=True)
class PretrainedCheckpoint(Checkpoint):
    """A folder written by a model's or an adapter's `save_pretrained`, a GGUF file, or a name on the Hugging Face hub.

    An adapter is merged into its model's weights once, and a GGUF file is unpacked once; the results are kept in the
    cache.

    Args:
        name: the folder, the file or the hub name.
        revision: commit, tag or branch on the hub; None is `main`.
    """

    name: str
    revision: str | None = None

    def place(self) -> Place:
        folder = Path(self.name)
        if folder.suffix == ".gguf" and not folder.is_dir():
            return _unpacked(folder)
        if not folder.is_dir():
            if folder.is_absolute() or self.name.startswith((".", "~")):
                raise CheckpointError(
                    f"no folder {self.name}: backbone.checkpoint.name is a folder, a GGUF file or a hub name"
                )
            # transformers asks the converter bot for safetensors only if the revision is given explicitly as `main`.
            return Place(self.name, self.revision or "main")
        if is_adapter(folder):
            return self._merged(read_adapter(folder))
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds no config.json: expected a folder that save_pretrained wrote")
        if not any(folder.glob("*.safetensors")):
            raise CheckpointError(
                f"{folder} holds no *.safetensors, and skiplab reads no pickles. {_conversion(self.name, None)}"
            )
        return Place(self.name)

    def _merged(self, adapter: Adapter) -> Place:
        base = PretrainedCheckpoint(name=adapter.base, revision=adapter.revision, dtype=self.dtype)
        version = version_of(*adapter.files, base=base.identity(), dtype=self.dtype)

        def make(folder: Path) -> None:
            model = _asked(str(adapter.folder), None, lambda: merge(base.model(base.config()), adapter))
            tokenizer = _tokenizer(str(adapter.folder), None) if adapter.has_tokenizer else base.tokenizer()
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        return Place(os.fspath(unpacked(f"merged-{version}", make)), identity=version)


def _unpacked(file: Path) -> Place:
    read_header(file)
    beside = [found for name in ("tokenizer.json", "tokenizer_config.json") if (found := file.parent / name).is_file()]
    version = version_of(file, *beside)
    return Place(os.fspath(unpacked(f"gguf-{version}", lambda folder: unpack_gguf(file, folder))), identity=version)


def _tokenizer(name: str, revision: str | None) -> "PreTrainedTokenizerFast":
    return _asked(
        name,
        revision,
        lambda: AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=False, padding_side="left", use_fast=True
        ),
    )


def _asked(name: str, revision: str | None, read: Any) -> Any:
    """Call `read`; its errors are turned into messages that say what to do."""
    try:
        return read()
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers and tokenizers raise errors of many types for damaged files
        if "safetensors" in str(error) and not Path(name).is_dir():
            raise CheckpointError(
                f"{name} has no safetensors at revision {revision}, and skiplab reads no pickles. Many older "
                "repositories have them on a branch of the hub's converter bot, seen under Community: give it as "
                f"backbone.checkpoint.revision=refs/pr/N. Or: {_conversion(name, revision)}"
            ) from error
        if isinstance(error, OSError) and not Path(name).is_dir():
            raise CheckpointError(
                f"cannot get {name} from the Hugging Face hub: {_first_line(error)} Give a local folder with its "
                "safetensors, configuration and tokenizer as backbone.checkpoint.name=DIR, or take random weights with "
                "backbone.pretrained=false"
            ) from error
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise CheckpointError(
            f"cannot load {name}: {kind}{error}. Check its config.json, tokenizer and weights, or download it again"
        ) from error


def _conversion(name: str, revision: str | None) -> str:
    """How the user can convert pickles to safetensors, outside skiplab."""
    source = f"{name!r}" if revision is None else f"{name!r}, revision={revision!r}"
    return (
        "Convert it once, if you trust it, and give the folder as backbone.checkpoint.name=DIR: "
        'python -c "from transformers import AutoModelForCausalLM, AutoTokenizer; '
        f"AutoModelForCausalLM.from_pretrained({source}, use_safetensors=False).save_pretrained('DIR'); "
        f"AutoTokenizer.from_pretrained({source}).save_pretrained('DIR')\""
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") + "."
