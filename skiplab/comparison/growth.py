"""Run folders that grow: more speedups, methods or seeds add rows, and no finished row changes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skiplab.comparison.cases import Case
from skiplab.methods.recipes import qualified_name
from skiplab.reporting.record import Entry
from skiplab.utils.run_folder import RunFolder

# Configuration keys that only add or remove rows; `conflicts` checks that no finished row changes.
AXES = ("speedups", "seeds", "passes", "methods", "method", "calibration.delta")
_SETTINGS = "settings"


def definition(case: Case | None, passes: int) -> dict[str, Any]:
    """What a setting's row was made from, beyond the configuration that all rows of a folder share.

    Args:
        case: None is Hugging Face's `generate`.
        passes: the trainer's number, for candidates that have none of their own.
    """
    if case is None:
        return {}
    return {
        "class": sorted({qualified_name(spec.method) for spec in case.candidates}),
        "hyperparameters": [dict(spec.params) for spec in case.candidates],
        "passes": [spec.passes or passes for spec in case.candidates if spec.training is not None],
    }


def is_known(folder: RunFolder, cases: Sequence[Case]) -> bool:
    """Whether all finished cases recorded what they were made from; earlier versions did not."""
    return all(known is not None for _, known in _finished(folder, cases))


def conflicts(folder: RunFolder, cases: Sequence[Case], passes: int) -> list[str]:
    """Finished cases that this configuration defines differently, each with the difference."""
    return [
        f"{case.entry.label} ({'; '.join(changed)})"
        for case, known in _finished(folder, cases)
        if known and (changed := list(_changes(known, definition(case, passes))))
    ]


def not_asked_for(folder: RunFolder, entries: Sequence[Entry]) -> list[str]:
    """Names of finished rows in the folder that are not among these."""
    asked = {entry.key for entry in entries}
    return [name for name in folder.names(_SETTINGS) if name not in asked]


def _finished(folder: RunFolder, cases: Sequence[Case]) -> Iterator[tuple[Case, Mapping[str, Any] | None]]:
    """The cases that have a record, each with its definition."""
    for case in cases:
        if (record := folder.load(f"{_SETTINGS}/{case.entry.key}")) is not None:
            yield case, record.get("definition") if isinstance(record, Mapping) else None


def _changes(known: Mapping[str, Any], present: Mapping[str, Any]) -> Iterator[str]:
    if known["class"] != present["class"]:
        yield f"it is another class, {', '.join(present['class'])}"
    old, new = known["hyperparameters"], present["hyperparameters"]
    if len(old) != len(new):
        yield f"it chooses among {len(new)} hypotheses instead of {len(old)}"
    elif differing := sorted({name for one, other in zip(old, new, strict=True) for name in _differing(one, other)}):
        yield f"it differs in {', '.join(differing)}"
    if (passes := sorted(set(present["passes"]))) != (before := sorted(set(known["passes"]))):
        yield f"passes={_numbers(passes)} instead of {_numbers(before)}"


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _numbers(numbers: Sequence[int]) -> str:
    return "+".join(map(str, numbers)) or "none"
