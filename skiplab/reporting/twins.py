"""Settings that are one decoder under two names, such as `3x` and a calibration that chose 3x."""

from collections.abc import Sequence

from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.vocabulary import FIGURES

# Figures of a setting that do not follow from its outputs.
_NOT_OF_OUTPUTS = ("target_speedup", "test_loss")


def twins_of(summary: Sequence[Row]) -> dict[Setting, Setting]:
    """By setting, the earlier one of its method that has the same threshold, mean depth and scores to the last digit.

    Args:
        summary: rows of `summary.summarise`.
    """
    measured = [
        figure.name
        for figure in FIGURES
        if (figure.over_seeds == "mean" or figure.interval == "items") and figure.name not in _NOT_OF_OUTPUTS
    ]
    first: dict[object, Setting] = {}
    found: dict[Setting, Setting] = {}
    for row in summary:
        own = tuple((name, row[name]) for name in measured if name in row)
        key = (row["method"], tuple(row["seeds"]), own)
        earlier = first.setdefault(key, Setting.of(row))
        # At full depth, different confidence measures decode the same.
        if earlier != Setting.of(row) and row.get("layer_speedup", 1.0) != 1.0:
            found[Setting.of(row)] = earlier
    return found


def twins_note(summary: Sequence[Row]) -> str:
    """A sentence that names the settings that are one decoder; empty if there are none."""
    groups: dict[Setting, list[Setting]] = {}
    for later, earlier in twins_of(summary).items():
        groups.setdefault(earlier, [earlier]).append(later)
    each = [" and ".join(map(str, members)) for members in groups.values()]
    return f"One decoder under several names, timed once for each: {'; '.join(each)}." if each else ""
