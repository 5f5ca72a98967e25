"""Complete weights from safetensors: a tensor that is missing, surplus or of another shape is an error."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

_LFS = b"version https://git-lfs"
# How many tensors a message names before it only counts the rest.
_NAMED = 3
# Prefixes that wrappers add to every name, and how to save without them.
_PREFIXES = MappingProxyType(
    {
        "_orig_mod.": "torch.compile's; save model._orig_mod instead of the compiled model",
        "module.": "DataParallel's; save model.module instead of the wrapper",
        "base_model.model.": "PEFT's; save model.merge_and_unload()",
    }
)
_AGAIN = "Save or download the whole checkpoint again"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why, and what to do."""


def load_whole(
    place: str | Path,
    *,
    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained,
    unused: tuple[str, ...] = (),
    **options: Any,
) -> PreTrainedModel:
    """A model on the CPU, with all of its weights from a checkpoint.

    Args:
        place: folder or hub name.
        load: the `from_pretrained` of a class of models.
        unused: name prefixes of weights that may be missing, because nothing reads them.
        options: for `from_pretrained`.

    Raises:
        CheckpointError: weights are missing, surplus, of another shape, truncated, or quantized.
        OSError, ValueError: raised by transformers for other checkpoints.
    """
    check_files(Path(place))
    check_number_format(place, options.get("config"))
    try:
        # With another default device, transformers needs accelerate. Mismatched shapes are refused below.
        with torch.device("cpu"):
            model, report = load(
                place,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except SafetensorError as error:
        raise CheckpointError(f"{place} holds a damaged safetensors file: {error}. {_AGAIN}") from error
    check_number_format(place, model.config)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise CheckpointError(
            f"{place} is an adapter of PEFT, which transformers loaded on top of another model's weights; download it, "
            "and give its folder as backbone.checkpoint.name=DIR to have it merged"
        )
    refuse_report(place, model, report, unused)
    # The description of a saved method holds for these weights, not for models trained from them.
    vars(model.config).pop("skiplab", None)
    return model


def refuse_report(
    place: str | Path, model: PreTrainedModel, report: Mapping[str, Any], unused: tuple[str, ...] = ()
) -> None:
    """Refuse a checkpoint by transformers' loading report.

    Args:
        report: of `from_pretrained(output_loading_info=True)`.
        unused: as for `load_whole`.

    Raises:
        CheckpointError: some of the model's weights are not from the checkpoint.
    """
    refuse_partial(
        place,
        missing=[name for name in report["missing_keys"] if not name.startswith(unused)],
        surplus=_of_the_model(report["unexpected_keys"], model),
        shapes={name: (tuple(found), tuple(expected)) for name, found, expected in report["mismatched_keys"]},
    )
    if report["error_msgs"]:
        raise CheckpointError(f"{place} cannot be loaded: {'; '.join(report['error_msgs'])}. {_AGAIN}")


@torch.no_grad()
def copy_whole(module: nn.Module, file: Path) -> None:
    """Copy the weights of a safetensors file into a module, one at a time; tied weights may be stored once.

    Raises:
        CheckpointError: the file is damaged, or has missing or surplus tensors or other shapes.
    """
    check_file(file)
    own = module.state_dict(keep_vars=True)
    with safe_open(file, framework="pt") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 - no mapping
        given = {_storage(own[name]) for name in shapes if name in own}
        refuse_partial(
            file,
            missing=[name for name, weight in own.items() if _storage(weight) not in given],
            surplus=[name for name in shapes if name not in own],
            shapes={
                name: (shape, tuple(own[name].shape))
                for name, shape in shapes.items()
                if name in own and shape != tuple(own[name].shape)
            },
        )
        for name in shapes:
            own[name].copy_(stored.get_tensor(name))


def check_files(folder: Path) -> None:
    """Refuse a folder with damaged weights; hub names are not checked.

    Raises:
        CheckpointError: the message names the file.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        check_file(single)
    elif index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{index} is not an index of shards ({type(error).__name__}: {error}). {_AGAIN}"
            ) from error
        for shard in shards:
            check_file(folder / str(shard))


def check_file(file: Path) -> None:
    """Refuse a safetensors file that is missing, truncated, or a Git LFS pointer.

    Raises:
        CheckpointError: the message names the file.
    """
    if not file.is_file():
        raise CheckpointError(f"no file {file}: a part of this checkpoint is missing. {_AGAIN}")
    with file.open("rb") as stored:
        if stored.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                f"{file} is a Git LFS pointer, not weights: run `git lfs pull` in that folder, or download it again"
            )
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise CheckpointError(
            f"{file} is truncated or damaged ({file.stat().st_size:,} bytes; {error}). {_AGAIN}"
        ) from error


def check_number_format(place: str | Path, config: Any) -> None:
    """Refuse a quantized checkpoint.

    Args:
        config: of the model, or None.
    """
    scheme = getattr(config, "quantization_config", None)
    if scheme is None:
        return
    method = scheme.get("quant_method") if isinstance(scheme, Mapping) else getattr(scheme, "quant_method", None)
    raise CheckpointError(
        f"{place} is quantized ({getattr(method, 'value', method) or 'by an unnamed scheme'}), and skiplab reads "
        "float32, bfloat16 and float16 weights: take the checkpoint that it was quantized from, or save its "
        "model.dequantize()"
    )


def refuse_partial(
    place: str | Path,
    *,
    missing: Iterable[str],
    surplus: Iterable[str] = (),
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Refuse a checkpoint whose tensors differ from its model's; the message names the first of each kind.

    Args:
        place: file, folder or hub name.
        missing, surplus: names that only the model has, or only the checkpoint.
        shapes: by name, in the checkpoint and in the model.

    Raises:
        CheckpointError: there is a difference.
    """
    missing, surplus = sorted(missing), sorted(surplus)
    faults = []
    if missing:
        faults.append(f"lacks {_listed(missing)}")
    if shapes:
        differ = [f"{name} (found {found}, expected {expected})" for name, (found, expected) in sorted(shapes.items())]
        faults.append(f"has other shapes than its model: {_listed(differ)}")
    if surplus:
        faults.append(f"has unexpected tensors: {_listed(surplus)}")
    if faults:
        raise CheckpointError(f"{place} {'; it '.join(faults)}. {_remedy(surplus)}")


def _remedy(surplus: list[str]) -> str:
    for prefix, source in _PREFIXES.items():
        if surplus and all(name.startswith(prefix) for name in surplus):
            return f"The prefix {prefix} is {source}"
    return f"{_AGAIN}, with the config.json that it was saved with"


def _of_the_model(names: Iterable[str], model: PreTrainedModel) -> list[str]:
    """Surplus tensors, except those of additional heads such as a value head, which do not change the model."""
    own = {f"{name}." for name, _ in model.named_children()}
    wrapped = tuple(_PREFIXES)
    return [name for name in names if name.startswith((*own, *wrapped, "layers.", "decoder.", "embed_tokens."))]


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more ({len(names)} tensors)" if rest > 0 else "")


def _storage(weight: torch.Tensor) -> tuple[int, int]:
    """An identifier that tied weights share; weights without storage are identified by their objects."""
    return (weight.data_ptr(), 0) if weight.numel() else (0, id(weight))
