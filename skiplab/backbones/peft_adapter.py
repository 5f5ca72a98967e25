"""LoRA and other PEFT adapters, merged completely into the weights of their model, or refused."""

import json
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch
from transformers import PreTrainedModel

from skiplab.backbones.whole_weights import CheckpointError, check_file, refuse_partial

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@final
@dataclass(frozen=True)
class Adapter:
    """A folder written by `save_pretrained` of a PEFT model.

    Attributes:
        base: folder or hub name of the model that it adapts.
        revision: of the base model on the hub.
    """

    folder: Path
    base: str
    revision: str | None

    @property
    def files(self) -> list[Path]:
        """Everything that the merged weights depend on."""
        return [*sorted(self.folder.glob("*.json")), self.folder / _WEIGHTS]

    @property
    def has_tokenizer(self) -> bool:
        return (self.folder / "tokenizer_config.json").is_file()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, even if it also holds a whole model."""
    return (folder / _CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder.

    Raises:
        CheckpointError: it names no base model, its weights are damaged or not safetensors, the folder also holds a
            whole model, or peft is not installed.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / _CONFIG} names no base model ({type(error).__name__}: {error})") from error
    if any(folder.glob("model*.safetensors")):
        raise CheckpointError(
            f"{folder} holds both a whole model and an adapter of {base}; move {_CONFIG} away to use the model, or "
            "the model's weights to have the adapter merged"
        )
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{folder / _CONFIG} names no base model; set base_model_name_or_path to its folder")
    if not (folder / _WEIGHTS).is_file():
        raise CheckpointError(f"{folder} holds no {_WEIGHTS}, and skiplab reads no pickles: save the adapter again")
    check_file(folder / _WEIGHTS)
    if find_spec("peft") is None:
        raise CheckpointError(
            f"{folder} holds an adapter of PEFT. To have it merged: pip install 'skiplab[peft]'. Or merge it yourself, "
            f"and give the folder as backbone.checkpoint.name=DIR: {_merging(folder)}"
        )
    return Adapter(folder, base, config.get("revision"))


def merge(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """The model with an adapter merged into its weights, in the weights' number format.

    Raises:
        CheckpointError: the adapter is not this model's, or cannot be merged.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    try:
        with warnings.catch_warnings():
            # Its warnings about missing weights are checked below.
            warnings.simplefilter("ignore")
            changed: Any = PeftModel.from_pretrained(model, str(adapter.folder))
    except Exception as error:  # peft and torch raise errors of many types for adapters of other models
        raise CheckpointError(
            f"the adapter {adapter.folder} does not fit {adapter.base}: {type(error).__name__}: {error}"
        ) from error
    stored = load_file(adapter.folder / _WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = get_peft_model_state_dict(changed)
    refuse_partial(
        adapter.folder,
        missing=[name for name in given if name not in stored],
        surplus=[name for name in stored if name not in given],
        shapes={
            name: (tuple(weight.shape), tuple(given[name].shape))
            for name, weight in stored.items()
            if name in given and weight.shape != given[name].shape
        },
    )
    if not hasattr(changed, "merge_and_unload"):
        kind = changed.active_peft_config.peft_type
        raise CheckpointError(f"{adapter.folder} is an adapter that cannot be merged into weights ({kind})")
    try:
        merged = changed.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise CheckpointError(f"{adapter.folder} cannot be merged: {error}") from error
    _check_ties(merged, adapter)
    return merged


def _check_ties(model: Any, adapter: Adapter) -> None:
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if model.config.tie_word_embeddings and head is not embedding and not torch.equal(head, embedding):
        raise CheckpointError(
            f"{adapter.folder} changes only one of embedding and head of {adapter.base}, which are the same weights "
            "there; untie them in the base model before it is adapted"
        )


def _merging(folder: Path) -> str:
    return (
        'pip install peft && python -c "from peft import AutoPeftModelForCausalLM as A; from transformers import '
        f"AutoTokenizer as T; m = A.from_pretrained({str(folder)!r}).merge_and_unload(safe_merge=True); "
        "m.save_pretrained('DIR'); T.from_pretrained(m.name_or_path).save_pretrained('DIR')\""
    )
