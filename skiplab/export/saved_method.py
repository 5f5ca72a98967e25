"""Trained methods as folders: weights, tokenizer, policy and a model card.

The folder is also one that `from_pretrained` reads: its weights at full depth.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.utils import GENERATION_CONFIG_NAME

from skiplab.backbones.whole_weights import CheckpointError, copy_whole
from skiplab.data.encoding import Encoding, Template
from skiplab.engine.batch import Batch
from skiplab.engine.generation import GREEDY, GenerationOptions
from skiplab.engine.number_format import FORMATS, NumberFormat
from skiplab.engine.packed_linear import check_integers
from skiplab.engine.policy import ExitPolicy
from skiplab.export.method import SavedMethod as SavedMethod
from skiplab.export.model_card import model_card
from skiplab.methods.base import ExitModule, Optimization, Setup
from skiplab.training.weights import load_backbone
from skiplab.utils.files import write_text
from skiplab.utils.old_names import present_name, with_present_hyperparameters

_FILE = "skiplab.json"
# Packages whose classes a folder may name; loading runs no other code.
_PACKAGES = ("skiplab.", "baselines.")
_FORMAT = 1
_NO_DATA: Sequence[Batch] = ()


class SavedMethodError(CheckpointError):
    """A method cannot be saved or loaded; the message says why."""


def save_method(
    folder: Path,
    module: ExitModule,
    policy: ExitPolicy,
    encoding: Encoding,
    *,
    params: Mapping[str, Any],
    max_new_tokens: int,
    facts: Mapping[str, Any],
    options: GenerationOptions = GREEDY,
) -> None:
    """Write a trained method to a folder.

    Args:
        policy: what the module decodes with; a threshold found on validation data is kept as found.
        params: the hyperparameters that the module was built with.
        facts: plain values for the model card, such as task and measured figures.
        options: what it decodes with; of plain greedy decoding the checkpoint's own `generation_config.json` stays.

    Raises:
        SavedMethodError: its policy needs validation data.
    """
    params = dict(params)
    if (threshold := getattr(policy, "threshold", None)) is not None:
        params |= {"threshold": threshold, "speedup": None}
    description = {
        "format": _FORMAT,
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "params": params,
        "setting": module.setting,
        "lengths": list(module.lengths),
        "template": vars(encoding.template),
        "pretrained_tokenizer": encoding.pretrained,
        "max_new_tokens": max_new_tokens,
    }
    setup = Setup(module.backbone, module.lengths, module.optimization)
    try:
        again = type(module)(setup, **params)
        if not again.probes:
            again.exit_policy(_NO_DATA)
    except (ValueError, IndexError, RuntimeError) as error:
        raise SavedMethodError(
            f"{module.setting} cannot be saved, because its policy is made from validation data: {error}"
        ) from error
    _write(folder, module, encoding, options)
    write_text(folder / "README.md", model_card(folder.name, description, policy, facts))
    write_text(folder / _FILE, json.dumps(description, indent=1))


def _write(folder: Path, module: ExitModule, encoding: Encoding, options: GenerationOptions) -> None:
    """Weights, tokenizer and generation options."""
    folder.mkdir(parents=True, exist_ok=True)
    module.backbone.model.save_pretrained(folder, max_shard_size="1TB")
    if (own := replace(options, seed=None, num_return_sequences=1)) != GREEDY:
        own.to_config().save_pretrained(folder)
    encoding.tokenizer.save_pretrained(folder)
    for index, probe in enumerate(module.probes):
        save_model(probe, str(folder / f"probe-{index}.safetensors"))


def load_method(
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    fast: bool = True,
    trust: Sequence[str] = (),
) -> SavedMethod:
    """What `save_method` wrote. The options in the folder's `generation_config.json` hold where a call gives none.

    Args:
        device: None is a GPU if torch can use one, else the CPU.
        dtype: a number format, `float32`, `bfloat16`, `float16` or `int8`; None is the folder's.
        fast: whether weights are packed on a CPU, and steps recorded on a GPU; takes memory for another copy.
        trust: packages beside skiplab and baselines whose classes the folder may name, such as `myproject`.

    Raises:
        CheckpointError: it is no such folder, its weights are not whole, or it names a class that is not trusted.
        ValueError: there is no such device or number format.
    """
    folder = Path(folder)
    description = _description(folder)
    number_format, device = _number_format(dtype), _device(device)
    if number_format is not None and number_format.integers:
        check_integers(device)
    # Before the weights are read.
    cls = _class(description["class"], trust) if isinstance(description.get("class"), str) else None
    try:
        return _loaded(folder, description, cls, _Placement(device, number_format, fast))
    except CheckpointError:
        raise
    except Exception as error:  # what a damaged folder makes libraries raise is of no one kind
        raise SavedMethodError(
            f"{folder} cannot be loaded: {type(error).__name__}: {error}. It is damaged, or was saved by another "
            "version of skiplab: load it with that version, or save the method again"
        ) from error


@dataclass(frozen=True)
class _Placement:
    """Where and how a method decodes; see `load_method`."""

    device: torch.device
    number_format: NumberFormat | None
    fast: bool


def _loaded(folder: Path, description: Mapping[str, Any], cls: Any, placement: _Placement) -> SavedMethod:
    number_format = placement.number_format
    backbone = load_backbone(folder, number_format and number_format.states).eval().to(placement.device)
    setup = Setup(backbone, description["lengths"], Optimization(learning_rate=1.0))
    params = with_present_hyperparameters(present_name(description["class"]), description["params"])
    module = cls(setup, **params)
    for index, probe in enumerate(module.probes):
        copy_whole(probe, folder / f"probe-{index}.safetensors")
        probe.to(placement.device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    template = Template(**description["template"])
    encoding = Encoding(tokenizer, template, pretrained=description["pretrained_tokenizer"])
    return SavedMethod(
        backbone=backbone,
        policy=module.eval().exit_policy(_NO_DATA),
        encoding=encoding,
        max_new_tokens=description["max_new_tokens"],
        description=description,
        defaults=_defaults(folder, encoding.eos_id),
        number_format=number_format,
        fast=placement.fast,
    )


def _defaults(folder: Path, eos_id: int) -> GenerationOptions:
    """The options in a folder's `generation_config.json`; outputs end with the tokenizer's token too."""
    if not (folder / GENERATION_CONFIG_NAME).is_file():
        return GREEDY
    try:
        options = GenerationOptions.from_config(GenerationConfig.from_pretrained(folder))
    except ValueError as error:
        raise SavedMethodError(f"{folder / GENERATION_CONFIG_NAME}: {error}") from error
    further = [one for one in options.eos_token_id or () if one != eos_id]
    return replace(options, eos_token_id=(eos_id, *further) if further else None)


def _number_format(dtype: torch.dtype | str | None) -> NumberFormat | None:
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in FORMATS:
        raise ValueError(f"dtype must be one of {', '.join(FORMATS)}, got {dtype!r}")
    return FORMATS[name]


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be cpu, cuda or cuda:NUMBER, got {device!r}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r} asks for a GPU, and torch can use none here; take device='cpu'")
    return found


def _description(folder: Path) -> dict[str, Any]:
    """What a folder says of its method."""
    path = folder / _FILE
    if not path.is_file():
        raise SavedMethodError(f"{folder} {_what_it_is(folder)}: expected a folder that skiplab saved a method to")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SavedMethodError(f"{path} is no JSON: {error}. Save the method again") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != _FORMAT:
        raise SavedMethodError(
            f"{folder} has format {found}, this skiplab reads {_FORMAT}: load it with the version of skiplab that "
            "saved it"
        )
    return description


def _what_it_is(folder: Path) -> str:
    """Of a place that is no saved method."""
    if not folder.exists():
        return "does not exist"
    if not folder.is_dir():
        return "is a file"
    lacks = f"holds no {_FILE}"
    if (folder / "adapter_config.json").is_file():
        return f"{lacks}, but an adapter of PEFT; merge it into its model with merge_and_unload() and train from that"
    if (folder / "config.json").is_file():
        return (
            f"{lacks}, but a model of transformers; give it as backbone=pretrained backbone.checkpoint.name={folder} "
            "and save a method with save_models=true"
        )
    return lacks if any(folder.iterdir()) else f"is empty, {lacks}"


def _class(path: str, trust: Sequence[str]) -> Any:
    module, _, name = present_name(path).rpartition(".")
    if isinstance(trust, str):
        raise ValueError(f"trust must be a list of packages, got {trust!r}; write trust=[{trust!r}]")
    trusted = (*_PACKAGES, *(f"{package.rstrip('.')}." for package in trust))
    if not f"{module}.".startswith(trusted):
        raise SavedMethodError(
            f"{path} is no class of {' or '.join(trusted)}, and a folder runs no other code; for a package of your own "
            f"give load_method(..., trust=[{path.partition('.')[0]!r}])"
        )
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise SavedMethodError(f"this skiplab has no {path}: {error}. Was it saved by a later version?") from error
    if not (isinstance(found, type) and issubclass(found, ExitModule)):
        raise SavedMethodError(f"{path} is no method of skiplab")
    return found
