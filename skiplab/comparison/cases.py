"""The settings of a comparison: each method node of the configuration, swept, calibrated and seeded."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from skiplab.comparison.config_nodes import target
from skiplab.methods.base import Setup
from skiplab.methods.spec import MethodSpec
from skiplab.reporting.record import Entry, Setting

# Keys of a method node that are not hyperparameters.
_RESERVED = ("name", "_target_", "sweep", "calibrate", "passes")


@final
@dataclass(frozen=True)
class Case:
    """One method in one setting with one seed.

    Attributes:
        family: shared by settings that differ only in speed and passes: the method, the node if several are of this
            method, and its swept hyperparameters except the first.
        candidates: specs to build it from; in a calibrated case, the hypotheses from the slowest to the fastest,
            otherwise one spec.
        delta: the loss that a calibrated case is certified for; None if it is not calibrated.
        passes: of its training, if they are swept.
    """

    entry: Entry
    family: str
    candidates: tuple[MethodSpec, ...]
    delta: float | None = None
    passes: int | None = None

    @property
    def series(self) -> str:
        """Shared by the settings of one curve: the family, at an equal number of passes."""
        return self.family if self.passes is None else f"{self.family} passes={self.passes}"

    @property
    def budget(self) -> tuple[Any, ...]:
        """Settings of different methods are compared if this is equal: delta or the spec's budget, and swept passes."""
        return (self.delta, self.passes, *(self.candidates[0].budget if self.delta is None else ()))


def expand(
    methods: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], probe: Setup, deltas: Sequence[float] = ()
) -> list[Case]:
    """All cases of the method nodes; each candidate's spec is made on `probe`, so that invalid ones are refused here.

    A node holds `name`, `_target_`, the module's hyperparameters, and `sweep`: lists of values by
    hyperparameter, of which every combination is a setting. With `calibrate` (one hyperparameter and its values from
    the slowest to the fastest) every combination is a setting for each of `deltas`, and a sweep of that hyperparameter
    is ignored. So is a sweep of `speedup` if a `schedule` file fixes it. `passes`, which may be swept too, is the
    number of passes of the training.

    Raises:
        ValueError: a module refuses its hyperparameters, or two cases have the same name.
    """
    cases: list[Case] = []
    names = [node["name"] for node in methods.values() if not node.get("calibrate")]
    for key, node in methods.items():
        method = [node["name"], *([key] if names.count(node["name"]) > 1 and key != node["name"] else [])]
        calibrated = node.get("calibrate") or {}
        fixed = {*calibrated, *(["speedup"] if node.get("schedule") or node.get("layers") else [])}
        sweep = {key: values for key, values in (node.get("sweep") or {}).items() if key not in fixed}
        for swept in _combinations(sweep):
            candidates = _candidates(node, swept, probe)
            # A method without training is the same for every seed and number of passes.
            trained = any(spec.training is not None for spec in candidates)
            if not trained and swept.pop("passes", None) not in (None, sweep.get("passes", [None])[0]):
                continue
            family = [*method, *_swept_words(swept, sweep)]
            for seed in seeds if trained else seeds[:1]:
                cases += _cases(node, family, candidates, seed, deltas, swept.get("passes"))
    keys = [case.entry.key for case in cases]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"two settings are called {key!r}; remove one from the sweep or the speedups")
    return cases


def rivals(cases: Sequence[Case], method: str = "skipdecode") -> dict[Setting, Setting]:
    """For each setting, the first setting of `method` with the same budget, unless it is the setting itself."""
    found: dict[Setting, Setting] = {}
    for case in cases:
        same = [other for other in cases if other.entry.method == method and other.budget == case.budget]
        if same and any(case.budget) and same[0].entry.over_seeds != case.entry.over_seeds:
            found[case.entry.over_seeds] = same[0].entry.over_seeds
    return found


def _cases(
    node: Mapping[str, Any],
    family: Sequence[str],
    candidates: tuple[MethodSpec, ...],
    seed: int,
    deltas: Sequence[float],
    passes: int | None,
) -> Iterator[Case]:
    words = [] if passes is None else [f"{passes} pass{'' if passes == 1 else 'es'}"]
    if not node.get("calibrate"):
        entry = Entry(node["name"], " ".join([candidates[0].setting, *words]), seed)
        yield Case(entry, " ".join(family), candidates, passes=passes)
        return
    shared = [*_shared_words([candidate.setting for candidate in candidates]), *words]
    for delta in deltas:
        entry = Entry(node["name"], " ".join([*shared, f"calibrated delta={delta:g}"]), seed)
        yield Case(entry, " ".join([node["name"], *shared, "calibrated"]), candidates, delta, passes)


def _shared_words(settings: Sequence[str]) -> list[str]:
    """The words that the settings' names share."""
    first, *others = (setting.split() for setting in settings)
    return [word for word in first if others and all(word in other for other in others)]


def _candidates(node: Mapping[str, Any], swept: Mapping[str, Any], probe: Setup) -> tuple[MethodSpec, ...]:
    fixed = {key: value for key, value in node.items() if key not in _RESERVED}
    calibrate = node.get("calibrate") or {}
    if len(calibrate) > 1 or any(not values for values in calibrate.values()):
        raise ValueError(
            f"method {node['name']}: calibrate takes one hyperparameter and a list of its values, got {calibrate}"
        )
    method = target(node["_target_"], f"method {node['name']}: _target_")
    found: list[MethodSpec] = []
    slowest = 0.0
    passes = swept.get("passes", node.get("passes"))
    swept = {key: value for key, value in swept.items() if key not in _RESERVED}
    for hypothesis in _combinations(calibrate):
        try:
            spec = MethodSpec.of(method, {**fixed, **swept, **hypothesis}, probe, passes=passes)
        except (TypeError, ValueError) as error:
            raise ValueError(f"method {node['name']}: {error}") from error
        if calibrate and (spec.target_speedup or slowest) < slowest:
            raise ValueError(
                f"method {node['name']}: calibrate must list its values from the slowest to the fastest, got "
                f"{next(iter(calibrate.values()))}"
            )
        slowest = spec.target_speedup or slowest
        found.append(spec)
    return tuple(found)


def _combinations(lists: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*lists.values()):
        yield dict(zip(lists, values, strict=True))


def _swept_words(swept: Mapping[str, Any], sweep: Mapping[str, Sequence[Any]]) -> list[str]:
    """The swept values in a family's name; not the first, which is the speed."""
    also = [key for key in list(swept)[1:] if swept[key] is not None and key != "passes"]
    return [f"{key}={_named(swept[key], sweep[key])}" for key in also]


def _named(value: Any, values: Sequence[Any]) -> str:
    """A mapping among others is named by its texts, and by the keys of its numbers that others with these texts lack;
    by all keys if nothing is left."""
    if not isinstance(value, Mapping):
        return str(value)
    texts = _texts(value)
    alike = [other for other in values if isinstance(other, Mapping) and _texts(other) == texts]
    own = [key for key in value if not isinstance(value[key], str) and not all(key in other for other in alike)]
    return "+".join([*texts, *own] or value)


def _texts(value: Mapping[str, Any]) -> list[str]:
    return [inner for inner in value.values() if isinstance(inner, str)]
