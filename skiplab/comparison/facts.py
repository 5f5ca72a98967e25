"""What a report and a console say about a comparison itself."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from skiplab.comparison.prepare import Prepared
from skiplab.data.module import TextData
from skiplab.reporting.limits import millions
from skiplab.reporting.record import Entry
from skiplab.reporting.tables import slug

_SPLITS = ("train", "selection", "calibration", "test")


def parameters(prepared: Prepared) -> int:
    """Weights of the backbone."""
    with torch.device("meta"):
        return prepared.new_backbone().model.num_parameters()


def command() -> str | None:
    """The command line of this process, as one types it; None if Hydra did not start it."""
    if not HydraConfig.initialized():
        return None
    return shlex.join(["python", "-m", "skiplab.run", *HydraConfig.get().overrides.task])


def backbone_name(node: Mapping[str, Any]) -> str:
    """Family, shape and checkpoint of a configured backbone."""
    family = str(node["_target_"]).rpartition(".")[2].removesuffix("Spec")
    checkpoint = (node.get("checkpoint") or {}).get("name") if node.get("pretrained") else "trained from scratch"
    shape = ""
    if "num_layers" in node and "hidden_size" in node:
        shape = f"{node['num_layers']} layers of width {node['hidden_size']}"
    return ", ".join(filter(None, [family, shape, checkpoint or "pretrained weights"]))


def backbone_slug(node: Mapping[str, Any]) -> str:
    """A short name of a configured backbone, such as `opt-12x64` or `smollm2-135m-instruct`."""
    family = str(node["_target_"]).rpartition(".")[2].removesuffix("Spec")
    checkpoint = (node.get("checkpoint") or {}).get("name") if node.get("pretrained") else None
    if checkpoint:
        return slug(Path(str(checkpoint)).name)
    return slug("-".join([family, *([f"{node['num_layers']}x{node['hidden_size']}"] if "hidden_size" in node else [])]))


def splits(data: TextData) -> str:
    """Items per split; those of `valid` by what they are used for."""
    return ", ".join(f"{split} {len(data.rows(split)):,}" for split in _SPLITS)


def machine(environment: Mapping[str, Any]) -> str:
    """Processor or GPU, cores and threads."""
    threads = environment.get("threads")
    parts = [environment.get("gpu") or environment.get("cpu"), f"{environment.get('cores')} cores"]
    return ", ".join(map(str, [*parts, f"{threads} thread{'' if threads == 1 else 's'}"]))


def commands(known: str | None, folder: Path) -> list[tuple[str, str]]:
    """Command lines that make a run and its report again, with what each makes.

    Args:
        known: that made the run; None if it is not known.
    """
    again = f"python -m skiplab.run experiment=report run={shlex.quote(str(folder))}"
    return [*([("the run", known)] if known else []), ("this page, from the run's folder", again)]


def facts(prepared: Prepared, environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for the report, in their order."""
    data = prepared.data
    seeds = prepared.config.seeds
    found = [
        ("task", data.source.name),
        ("backbone", backbone_name(prepared.config.plain["backbone"])),
        ("parameters", millions(parameters(prepared))),
        ("items per split", splits(data)),
        ("training seed" if len(seeds) == 1 else "training seeds", ", ".join(map(str, seeds))),
        ("machine", machine(environment)),
    ]
    if revision := environment.get("git_revision"):
        found.append(("revision", f"{revision[:10]}{' with changes' if environment.get('git_dirty') else ''}"))
    return found


def header(
    prepared: Prepared,
    environment: Mapping[str, Any],
    folder: Path,
    entries: Iterable[Entry],
    finished: int,
    *,
    workers: int = 1,
) -> list[str]:
    """What a comparison is, for the console.

    Args:
        entries: all settings.
        finished: how many of them an earlier run finished.
        workers: processes that make the others.
    """
    methods = Counter(entry.method for entry in entries)
    counts = ", ".join(f"{method} {count}" for method, count in methods.items())
    before = f"; {finished} already finished" if finished else ""
    named = {
        "task": f"{prepared.data.source.name}: {splits(prepared.data)} items",
        "backbone": f"{backbone_name(prepared.config.plain['backbone'])}, {millions(parameters(prepared))} parameters",
        "settings": f"{methods.total()} ({counts}){before}",
        "device": machine(environment),
        **({"workers": f"{workers} processes make the settings"} if workers > 1 else {}),
        "folder": str(folder),
        **({"time": "estimated once the base and a first setting are made"} if finished < methods.total() else {}),
    }
    first = ": ".join(filter(None, [prepared.config.tracking.experiment, prepared.config.description]))
    return [first, *(f"  {name:8}  {value}" for name, value in named.items()), *prepared.notes]
