"""Trained methods as folders: weights, tokenizer, policy and a model card.

The folder is also one that `from_pretrained` reads: its weights at full depth.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, final

from safetensors.torch import save_model
from transformers import PreTrainedTokenizerFast

from skiplab.backbones.whole_weights import CheckpointError, copy_whole
from skiplab.data.encoding import Encoding, Template
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.engine.decode import decode
from skiplab.engine.policy import ExitPolicy
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


@final
@dataclass(frozen=True)
class SavedMethod:
    """A method ready to decode.

    Attributes:
        description: what the folder says of it: class, hyperparameters, setting and so on.
    """

    backbone: Backbone
    policy: ExitPolicy
    encoding: Encoding
    max_new_tokens: int
    description: Mapping[str, Any]

    def generate(self, prompts: Sequence[str], *, batch_size: int = 32) -> list[str]:
        """Continue prompts, as text; one string is one prompt."""
        return self.encoding.texts(self.tokens(prompts, batch_size=batch_size))

    def tokens(self, prompts: Sequence[str], *, batch_size: int = 32) -> list[list[int]]:
        """Continue prompts, as token ids with end of sequence; one string is one prompt.

        Raises:
            ValueError: the batch size is below 1, or a prompt is no text.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        ids = self.encoding.prompts(_texts(prompts))
        found: list[list[int]] = []
        for first in range(0, len(ids), batch_size):
            result = decode(
                self.backbone,
                self.policy,
                ids[first : first + batch_size],
                max_new_tokens=self.max_new_tokens,
                eos_id=self.encoding.eos_id,
                pad_id=self.encoding.pad_id,
            )
            found += result.sequences()
        return found


def save_method(
    folder: Path,
    module: ExitModule,
    policy: ExitPolicy,
    encoding: Encoding,
    *,
    params: Mapping[str, Any],
    max_new_tokens: int,
    facts: Mapping[str, Any],
) -> None:
    """Write a trained method to a folder.

    Args:
        policy: what the module decodes with; a threshold found on validation data is kept as found.
        params: the hyperparameters that the module was built with.
        facts: plain values for the model card, such as task and measured figures.

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
        again = _class(description["class"])(setup, **params)
        if not again.probes:
            again.exit_policy(_NO_DATA)
    except (ValueError, IndexError, RuntimeError) as error:
        raise SavedMethodError(
            f"{module.setting} cannot be saved, because its policy is made from validation data: {error}"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    module.backbone.model.save_pretrained(folder, max_shard_size="1TB")
    encoding.tokenizer.save_pretrained(folder)
    for index, probe in enumerate(module.probes):
        save_model(probe, str(folder / f"probe-{index}.safetensors"))
    write_text(folder / "README.md", _card(folder.name, description, policy, facts))
    write_text(folder / _FILE, json.dumps(description, indent=1))


def load_method(folder: str | Path) -> SavedMethod:
    """What `save_method` wrote.

    Raises:
        CheckpointError: it is no such folder, its weights are not whole, or it names a class that is not skiplab's.
    """
    folder = Path(folder)
    description = _description(folder)
    try:
        return _loaded(folder, description)
    except CheckpointError:
        raise
    except Exception as error:  # what a damaged folder makes libraries raise is of no one kind
        raise SavedMethodError(
            f"{folder} cannot be loaded: {type(error).__name__}: {error}. It is damaged, or was saved by another "
            "version of skiplab: load it with that version, or save the method again"
        ) from error


def _loaded(folder: Path, description: Mapping[str, Any]) -> SavedMethod:
    backbone = load_backbone(folder).eval()
    setup = Setup(backbone, description["lengths"], Optimization(learning_rate=1.0))
    params = with_present_hyperparameters(present_name(description["class"]), description["params"])
    module = _class(description["class"])(setup, **params)
    for index, probe in enumerate(module.probes):
        copy_whole(probe, folder / f"probe-{index}.safetensors")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    template = Template(**description["template"])
    return SavedMethod(
        backbone=backbone,
        policy=module.eval().exit_policy(_NO_DATA),
        encoding=Encoding(tokenizer, template, pretrained=description["pretrained_tokenizer"]),
        max_new_tokens=description["max_new_tokens"],
        description=description,
    )


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


def _texts(prompts: Any) -> list[str]:
    """Prompts as a list.

    Raises:
        ValueError: one is no text that can be encoded.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, Mapping | bytes):
        raise ValueError(f"prompts must be a list of strings, got {type(prompts).__name__}")
    found = list(prompts)
    for index, prompt in enumerate(found):
        if not isinstance(prompt, str):
            raise ValueError(f"prompts must be strings, prompt {index} is {type(prompt).__name__}: {prompt!r:.60}")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt {index} holds half of a surrogate pair at character {error.start}") from error
    return found


def _class(path: str) -> Any:
    module, _, name = present_name(path).rpartition(".")
    if not module.startswith(_PACKAGES):
        raise SavedMethodError(f"{path} is no class of {' or '.join(_PACKAGES)}, and a folder runs no other code")
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise SavedMethodError(f"this skiplab has no {path}: {error}. Was it saved by a later version?") from error
    if not (isinstance(found, type) and issubclass(found, ExitModule)):
        raise SavedMethodError(f"{path} is no method of skiplab")
    return found


def _card(name: str, description: Mapping[str, Any], policy: ExitPolicy, facts: Mapping[str, Any]) -> str:
    """The model card, in the hub's form."""
    depths = [len(policy.plan(step)) for step in range(description["max_new_tokens"])]
    layers = ", ".join(map(str, depths[:32])) + (" and so on" if len(depths) > 32 else "")
    values = {**description["params"], **facts}
    table = "\n".join(f"| {key} | {_shown(value)} |" for key, value in values.items())
    return f"""---
library_name: skiplab
pipeline_tag: text-generation
tags: [skiplab, depth-adaptive-decoding]
---

# {name}

{description["class"].rpartition(".")[2]} at the setting {description["setting"]}, fine-tuned and decoded by skiplab.
Most layers that a token may take, from the prompt pass on: {layers}.

```python
from skiplab.export.saved_method import load_method
method = load_method("FOLDER")
print(method.generate(["a prompt"]))
```

`from_pretrained` reads the same weights and runs them at full depth, which is not what they were trained for.

| | |
| --- | --- |
{table}
"""


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
