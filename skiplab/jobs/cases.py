"""The settings of a comparison: each method node of the configuration, swept and seeded."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate

from skiplab.module import ExitModule, Setup

Build = Callable[[Setup], ExitModule]


@dataclass(frozen=True)
class Entry:
    """What a result row is about."""

    method: str
    setting: str
    seed: int

    @property
    def label(self) -> str:
        return f"{self.method} {self.setting}"

    @property
    def key(self) -> str:
        """A name for files, unique within a comparison."""
        return re.sub(r"[^a-z0-9._]+", "-", f"{self.label} seed {self.seed}".lower())


@dataclass(frozen=True)
class Case:
    """One method in one setting with one seed.

    Attributes:
        series: the settings that make one curve: the method, and what is swept beside the first axis.
        params: the module's hyperparameters.
        build: makes the module from what the comparison shares.
    """

    entry: Entry
    series: str
    params: dict[str, Any]
    build: Build


def expand(methods: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], probe: Setup) -> list[Case]:
    """All cases of the method nodes, each built once on `probe` so that a bad one is refused here.

    A node holds `name`, `_target_`, the module's hyperparameters, and `sweep`: lists of values by
    hyperparameter, of which every combination is a setting.

    Raises:
        ValueError: a module refuses its hyperparameters, or two cases have one name.
    """
    cases: list[Case] = []
    for node in methods.values():
        for params in _settings(node):
            build: Build = instantiate({"_target_": node["_target_"], "_partial_": True, **params})
            try:
                module = build(probe)
            except (TypeError, ValueError) as error:
                raise ValueError(f"method {node['name']}: {error}") from error
            # Without training of its own a method is the same for every seed.
            used = seeds if module.recipe is not None else seeds[:1]
            cases += [
                Case(Entry(node["name"], module.setting, seed), _series(node, params), params, build) for seed in used
            ]
    keys = [case.entry.key for case in cases]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"two settings are called {key!r}; remove one from the sweep or the speedups")
    return cases


def _settings(node: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    fixed = {key: value for key, value in node.items() if key not in ("name", "_target_", "sweep")}
    sweep = node.get("sweep") or {}
    for values in itertools.product(*sweep.values()):
        yield fixed | dict(zip(sweep, values, strict=True))


def _series(node: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    beside = list(node.get("sweep") or {})[1:]
    return " ".join([node["name"], *(f"{key}={params[key]}" for key in beside if params[key] is not None)])
