"""Trained methods as folders: weights, tokenizer, policy and a model card.

The folder is also one that `from_pretrained` reads: its weights at full depth.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from skiplab.backbones.whole_weights import CheckpointError
from skiplab.data.encoding import Encoding, Template
from skiplab.engine.generation import GREEDY, GenerationOptions
from skiplab.engine.number_format import FORMATS, NumberFormat
from skiplab.engine.packed_linear import check_integers
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.speculative import Speculative
from skiplab.export.description import (
    FILE,
    FORMAT,
    NO_DATA,
    build_module,
    method_class,
    probe_file,
    read_description,
)
from skiplab.export.description import SavedMethodError as SavedMethodError
from skiplab.export.drafts import with_drafts
from skiplab.export.method import SavedMethod as SavedMethod
from skiplab.export.model_card import model_card
from skiplab.methods.base import ExitModule, Setup
from skiplab.methods.spec import settled
from skiplab.training.weights import load_backbone
from skiplab.utils.files import write_text

_NOTE = (
    "These weights are trained for the schedule {setting} of this class. generate() of transformers runs them at full "
    "depth, unless it is given custom_generate=skiplab.hf.generate."
)
_GENERATE = '''"""Generates as the method of this folder decodes; needs skiplab."""


def generate(inputs=None, *, model, **arguments):
    from skiplab.hf import run

    return run(model, inputs, **arguments)
'''


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
        options: generation options to save; with plain greedy decoding the checkpoint's own `generation_config.json`
            is kept.

    Raises:
        SavedMethodError: its policy needs validation data.
    """
    threshold = getattr(policy, "threshold", None)
    params = dict(params) if threshold is None else settled(params, threshold)
    if isinstance(policy, Speculative) and policy.drafting.vocabulary is not None:
        params["draft"] = {**params["draft"], "vocabulary": policy.drafting.vocabulary}
    description = {
        "format": FORMAT,
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
            again.exit_policy(NO_DATA)
    except (ValueError, IndexError, RuntimeError) as error:
        raise SavedMethodError(
            f"{module.setting} cannot be saved, because its policy is made from validation data: {error}"
        ) from error
    _write(folder, module, encoding, options)
    _complete_for_transformers(folder, description)
    write_text(folder / "README.md", model_card(folder.name, description, policy, facts))
    write_text(folder / FILE, json.dumps(description, indent=1))


def _write(folder: Path, module: ExitModule, encoding: Encoding, options: GenerationOptions) -> None:
    """Weights, tokenizer and generation options."""
    folder.mkdir(parents=True, exist_ok=True)
    module.backbone.model.save_pretrained(folder, max_shard_size="1TB")
    if (own := replace(options, seed=None, num_return_sequences=1)) != GREEDY:
        own.to_config().save_pretrained(folder)
    encoding.tokenizer.save_pretrained(folder)
    for index, probe in enumerate(module.probes):
        save_model(probe, str(folder / probe_file(index)))


def _complete_for_transformers(folder: Path, description: Mapping[str, Any]) -> None:
    """Let transformers run the method from its folder: `config.json` describes it, `custom_generate/` calls skiplab."""
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    config["skiplab"] = {"note": _NOTE.format(setting=description["setting"]), **description}
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2))
    code = folder / "custom_generate"
    code.mkdir(exist_ok=True)
    write_text(code / "generate.py", _GENERATE)
    write_text(code / "requirements.txt", f"skiplab>={version('skiplab')}\n")


def load_method(
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    fast: bool = True,
    draft: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> SavedMethod:
    """Load what `save_method` wrote. The folder's `generation_config.json` gives the defaults of each call.

    Args:
        device: None takes a GPU if torch can use one, else the CPU.
        dtype: a number format, `float32`, `bfloat16`, `float16` or `int8`; None takes the folder's.
        fast: whether to pack weights on a CPU and record steps on a GPU, which takes memory for a second copy.
        draft: keywords of `SelfSpeculative`, such as `{"speedup": 3}`, with which a method that runs all layers drafts
            its tokens; None decodes as saved.
        trust: packages beside skiplab and baselines whose classes the folder may name, such as `myproject`.

    Raises:
        CheckpointError: the folder holds no saved method, its weights are incomplete, or its class is not trusted.
        ValueError: there is no such device or number format, or the method cannot draft so.
    """
    if isinstance(trust, str):
        raise ValueError(f"trust must be a list of packages, got {trust!r}; write trust=[{trust!r}]")
    folder = Path(folder)
    description = read_description(folder)
    number_format, device = _number_format(dtype), _device(device)
    if number_format is not None and number_format.integers:
        check_integers(device)
    try:
        # Before the weights are read.
        method_class(description["class"], trust)
        method = _loaded(folder, description, trust, _Placement(device, number_format, fast))
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # libraries raise many kinds of errors on a damaged folder
        raise SavedMethodError(
            f"{folder} cannot be loaded: {type(error).__name__}: {error}. It is damaged, or was saved by another "
            "version of skiplab: load it with that version, or save the method again"
        ) from error
    return method if draft is None else with_drafts(method, draft)


@dataclass(frozen=True)
class _Placement:
    """Where and how a method decodes; see `load_method`."""

    device: torch.device
    number_format: NumberFormat | None
    fast: bool


def _loaded(folder: Path, description: Mapping[str, Any], trust: Sequence[str], placement: _Placement) -> SavedMethod:
    number_format = placement.number_format
    backbone = load_backbone(folder, number_format and number_format.states).eval().to(placement.device)
    module = build_module(description, backbone, lambda name: folder / name, trust)
    _warn_of_full_depth(backbone.model, description["setting"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    template = Template(**description["template"])
    encoding = Encoding(tokenizer, template, pretrained=description["pretrained_tokenizer"])
    return SavedMethod(
        backbone=backbone,
        policy=module.exit_policy(NO_DATA),
        encoding=encoding,
        max_new_tokens=description["max_new_tokens"],
        description=description,
        defaults=_defaults(folder, encoding.eos_id),
        number_format=number_format,
        fast=placement.fast,
    )


def _warn_of_full_depth(model: PreTrainedModel, setting: str) -> None:
    """Warn at the first plain `generate` call that it runs at full depth."""
    plain: Callable[..., Any] = model.generate  # type: ignore[assignment]
    told: list[bool] = []

    def generate(*arguments: Any, **options: Any) -> Any:
        if options.get("custom_generate") is None and not told:
            told.append(True)
            warnings.warn(_NOTE.format(setting=setting), stacklevel=2)
        return plain(*arguments, **options)

    model.generate = generate  # type: ignore[method-assign, assignment]


def _defaults(folder: Path, eos_id: int) -> GenerationOptions:
    """The options in a folder's `generation_config.json`; the tokenizer's end token ends outputs too."""
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
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu, cuda or cuda:NUMBER, got {str(device)!r}")
    if found.type == "cuda" and (found.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device={str(device)!r} asks for a GPU that torch cannot use: it finds {count} here")
    return found
