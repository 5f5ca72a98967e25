"""Means of settings over their seeds, with intervals, and paired tests of each setting against its rival."""

from collections.abc import Mapping, Sequence

from skiplab.evaluation.significance import holm, paired_differences, paired_intervals, seed_item_interval
from skiplab.reporting.record import Record, Setting
from skiplab.reporting.results import Row
from skiplab.reporting.vocabulary import FIGURES

Scores = list[Sequence[float]]
"""Item scores by seed."""


def summarise(records: Sequence[Record], rivals: Mapping[Setting, Setting]) -> list[Row]:
    """One row per method and setting, in the records' order.

    Args:
        records: finished settings, seed by seed; the full model first, with which all others are compared.
        rivals: by setting, the setting against which it is tested.
    """
    groups: dict[Setting, list[Record]] = {}
    for record in records:
        groups.setdefault(record.entry.over_seeds, []).append(record)
    found = {setting: _summary(members) for setting, members in groups.items()}
    _add_from_full(found, groups)
    pairs: dict[tuple[Setting, str], tuple[Scores, Scores]] = {}
    for setting, members in groups.items():
        rival = rivals.get(setting)
        if rival is None or rival not in groups or len(next(iter(members[0].item_scores.values()))) < 2:
            continue
        found[setting]["against"] = str(rival)
        for name in members[0].item_scores:
            own, other = _paired(name, members, groups[rival])
            if own:
                pairs[setting, name] = own, other
    differences = dict(zip(pairs, paired_differences(list(pairs.values())), strict=True))
    for (setting, name), difference in differences.items():
        found[setting] |= {
            f"{name}_difference": difference.mean,
            f"{name}_difference_ci95": [difference.low, difference.high],
        }
    for family in dict.fromkeys(name for _, name in pairs):
        tested = {setting: difference.p_value for (setting, name), difference in differences.items() if name == family}
        for setting, p_value in zip(tested, holm(list(tested.values())), strict=True):
            found[setting][f"{family}_p_value"] = p_value
    return list(found.values())


def _add_from_full(found: dict[Setting, Row], groups: Mapping[Setting, Sequence[Record]]) -> None:
    """Add the differences from the full model, if its records come first."""
    first = next(iter(groups), None)
    if first is None or first.method != "full":
        return
    pairs: dict[tuple[Setting, str], tuple[Scores, Scores]] = {}
    for setting, members in groups.items():
        for name, scores in members[0].item_scores.items():
            if setting != first and len(scores) >= 2 and name in groups[first][0].item_scores:
                own, other = _paired(name, members, groups[first])
                if own:
                    pairs[setting, name] = own, other
    for (setting, name), (mean, low, high) in zip(pairs, paired_intervals(list(pairs.values())), strict=True):
        found[setting] |= {f"{name}_from_full": mean, f"{name}_from_full_ci95": [low, high]}


def _summary(members: Sequence[Record]) -> Row:
    rows = [member.row for member in members]
    found: Row = {
        "method": rows[0]["method"],
        "setting": rows[0]["setting"],
        "seeds": [row["seed"] for row in rows],
    }
    for figure in FIGURES:
        name, interval = figure.name, f"{figure.name}_ci95"
        if figure.over_seeds is None or not all(name in row for row in rows):
            continue
        if figure.over_seeds == "each":
            found[name] = ", ".join(dict.fromkeys(row[name] for row in rows))
            continue
        found[name] = sum(row[name] for row in rows) / len(rows)
        if len(rows) == 1 and interval in rows[0]:
            found[interval] = rows[0][interval]
        if len(rows) > 1 and figure.interval == "corpus":
            found[f"{name}_seeds"] = [min(row[name] for row in rows), max(row[name] for row in rows)]
    for name in members[0].item_scores:
        scores_SI = [member.item_scores[name] for member in members]
        found[name] = sum(map(sum, scores_SI)) / sum(map(len, scores_SI))
        if (interval := seed_item_interval(scores_SI)) is not None:
            found[f"{name}_ci95"] = list(interval)
    return found


def _paired(name: str, own: Sequence[Record], other: Sequence[Record]) -> tuple[Scores, Scores]:
    """Item scores of the seeds that both have; all scores of both if one is untrained, because it has no seeds."""
    own_by_seed, other_by_seed = (
        {record.entry.seed: record.item_scores[name] for record in side} for side in (own, other)
    )
    if not (own[0].trained and other[0].trained):
        return list(own_by_seed.values()), list(other_by_seed.values())
    shared = sorted(own_by_seed.keys() & other_by_seed.keys())
    return [own_by_seed[seed] for seed in shared], [other_by_seed[seed] for seed in shared]
