"""Pretrained weights: a hub's or a folder's, as safetensors and without remote code."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from skiplab.backbones.adapters import check_type
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
    def place(self) -> tuple[str, str | None]:
        """Hub name or folder, and revision.

        Raises:
            CheckpointError: there is none.
        """

    def identity(self) -> str:
        """Tells one version of the weights from another: a commit of the hub, or size and time of a folder's files."""
        name, _ = self.place()
        if not Path(name).is_dir():
            return str(getattr(self.config(), "_commit_hash", None))
        files = sorted(Path(name).glob("*.safetensors"))
        return fingerprint(**{file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files})

    def config(self) -> Any:
        """Its model configuration.

        Raises:
            CheckpointError: it cannot be had, or no view understands such a model.
        """
        name, revision = self.place()
        config = _asked(
            name, revision, lambda: AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        )
        check_type(config.model_type)
        check_number_format(name, config)
        return config

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """Its tokenizer.

        Raises:
            CheckpointError: it cannot be had, or lacks the end-of-sequence token.
        """
        name, revision = self.place()
        tokenizer = _asked(
            name,
            revision,
            lambda: AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=False, padding_side="left", use_fast=True
            ),
        )
        if tokenizer.eos_token_id is None:
            raise CheckpointError(f"the tokenizer of {name} has no end-of-sequence token; outputs would never end")
        if tokenizer.pad_token_id is None:
            raise CheckpointError(
                f"the tokenizer of {name} has no pad token; set one in the tokenizer_config.json of a local folder, "
                f'such as "pad_token": {tokenizer.eos_token!r} (what is padded is masked, so any token will do)'
            )
        return tokenizer

    def model(self, config: Any) -> PreTrainedModel:
        """Its weights in a model of this configuration on the CPU, held once, ready to be trained.

        Raises:
            CheckpointError: they cannot be had, are no safetensors, or are not all the weights of such a model.
        """
        name, revision = self.place()

        def load() -> PreTrainedModel:
            return load_whole(name, config=config, revision=revision, dtype=getattr(torch, self.dtype)).train()

        return _asked(name, revision, load)


@final
@dataclass(frozen=True, kw_only=True)
class PretrainedCheckpoint(Checkpoint):
    """A folder that `save_pretrained` made, or a name on the Hugging Face hub.

    Args:
        name: the folder or the hub name.
        revision: commit, tag or branch on the hub; None is `main`.
    """

    name: str
    revision: str | None = None

    def place(self) -> tuple[str, str | None]:
        folder = Path(self.name)
        if not folder.is_dir():
            if folder.is_absolute() or self.name.startswith((".", "~")):
                raise CheckpointError(f"no folder {self.name}: backbone.checkpoint.name is a folder or a hub name")
            # transformers asks for the converter bot's safetensors where it is told `main` in so many words.
            return self.name, self.revision or "main"
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds no config.json: expected a folder that save_pretrained made")
        if not any(folder.glob("*.safetensors")):
            raise CheckpointError(
                f"{folder} holds no *.safetensors, and skiplab reads no pickles. {_conversion(self.name, None)}"
            )
        return self.name, None


def _asked(name: str, revision: str | None, read: Any) -> Any:
    """What `read` gives; its failures say what to do."""
    try:
        return read()
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what transformers and tokenizers raise of damaged files is of no one kind
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
    """How to make safetensors of pickles, outside skiplab and by the user's own decision."""
    source = f"{name!r}" if revision is None else f"{name!r}, revision={revision!r}"
    return (
        "Convert it once, if you trust it, and give the folder as backbone.checkpoint.name=DIR: "
        'python -c "from transformers import AutoModelForCausalLM, AutoTokenizer; '
        f"AutoModelForCausalLM.from_pretrained({source}, use_safetensors=False).save_pretrained('DIR'); "
        f"AutoTokenizer.from_pretrained({source}).save_pretrained('DIR')\""
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") + "."
