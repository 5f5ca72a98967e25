"""The description in a saved method's folder: class, hyperparameters, and how text becomes tokens."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from skiplab.backbones.whole_weights import CheckpointError, copy_whole
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.methods.base import ExitModule, Optimization, Setup
from skiplab.utils.old_names import present_name, with_present_hyperparameters

FILE = "skiplab.json"
FORMAT = 1
NO_DATA: Sequence[Batch] = ()
# Packages whose classes a folder may name; loading runs no other code.
_PACKAGES = ("skiplab.", "baselines.")


class SavedMethodError(CheckpointError):
    """A method cannot be saved or loaded; the message says why."""


def probe_file(index: int) -> str:
    """The file of a module's probe."""
    return f"probe-{index}.safetensors"


def build_module(
    description: Mapping[str, Any], backbone: Backbone, probe: Callable[[str], Path], trust: Sequence[str] = ()
) -> ExitModule:
    """Build the described module, ready to decode.

    Args:
        backbone: with the method's weights.
        probe: path of a probe's weights, by file name.
        trust: as for `load_method`.

    Raises:
        SavedMethodError: the class is not trusted, or is not a method.
    """
    cls = method_class(description["class"], trust)
    setup = Setup(backbone, description["lengths"], Optimization(learning_rate=1.0))
    params = with_present_hyperparameters(present_name(description["class"]), description["params"])
    module = cls(setup, **params)
    for index, one in enumerate(module.probes):
        copy_whole(one, probe(probe_file(index)))
        one.to(backbone.device)
    return module.eval()


def read_description(folder: Path) -> dict[str, Any]:
    """Read a folder's description.

    Raises:
        SavedMethodError: the folder holds no saved method, or one of another version of skiplab.
    """
    path = folder / FILE
    if not path.is_file():
        raise SavedMethodError(f"{folder} {_what_it_is(folder)}: expected a folder that skiplab saved a method to")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SavedMethodError(f"{path} is not valid JSON: {error}. Save the method again") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise SavedMethodError(
            f"{folder} has format {found}, but this version of skiplab reads {FORMAT}: load it with the version that "
            "saved it"
        )
    return description


def _what_it_is(folder: Path) -> str:
    """Describe a path that holds no saved method."""
    if not folder.exists():
        return "does not exist"
    if not folder.is_dir():
        return "is a file"
    lacks = f"holds no {FILE}"
    if (folder / "adapter_config.json").is_file():
        return f"{lacks}, but an adapter of PEFT; merge it into its model with merge_and_unload() and train from that"
    if (folder / "config.json").is_file():
        return (
            f"{lacks}, but a model of transformers; give it as backbone=pretrained backbone.checkpoint.name={folder} "
            "and save a method with save_models=true"
        )
    return lacks if any(folder.iterdir()) else f"is empty, {lacks}"


def method_class(path: str, trust: Sequence[str]) -> type[ExitModule]:
    """The class that a description names.

    Raises:
        SavedMethodError: there is no such method class, or its package is not trusted.
    """
    module, _, name = present_name(path).rpartition(".")
    trusted = (*_PACKAGES, *(f"{package.rstrip('.')}." for package in trust))
    if not f"{module}.".startswith(trusted):
        raise SavedMethodError(
            f"{path} is not a class of {' or '.join(trusted)}, and loading a folder runs no other code; if you trust "
            f"the package, pass load_method(..., trust=[{path.partition('.')[0]!r}])"
        )
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise SavedMethodError(f"this skiplab has no {path}: {error}. Was it saved by a later version?") from error
    if not (isinstance(found, type) and issubclass(found, ExitModule)):
        raise SavedMethodError(f"{path} is not a method of skiplab")
    return found
