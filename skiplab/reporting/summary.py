"""Settings over their seeds, and each against its rival: means, intervals and paired tests."""

from collections.abc import Mapping, Sequence
from typing import Any

from skiplab.evaluation.significance import paired_differences, seed_item_interval
from skiplab.reporting.results import Row
from skiplab.reporting.vocabulary import FIGURES

Scores = list[list[float]]
"""Item scores by seed."""


def summarise(records: Sequence[Mapping[str, Any]], rivals: Mapping[str, str]) -> list[Row]:
    """One row per method and setting, in the records' order.

    Args:
        records: finished settings, each with its result `row`, its item scores `by_item`, and whether it was
            `trained` by its seed.
        rivals: label (`method setting`) of a setting to the label of the one it is tested against.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(f"{record['row']['method']} {record['row']['setting']}", []).append(record)
    found = {label: _summary(members) for label, members in groups.items()}
    pairs: dict[tuple[str, str], tuple[Scores, Scores]] = {}
    for label, members in groups.items():
        rival = rivals.get(label)
        if rival is None or rival not in groups or len(next(iter(members[0]["by_item"].values()))) < 2:
            continue
        found[label]["against"] = rival
        for name in members[0]["by_item"]:
            own, other = _paired(name, members, groups[rival])
            if own:
                pairs[label, name] = own, other
    for (label, name), difference in zip(pairs, paired_differences(list(pairs.values())), strict=True):
        found[label] |= {
            f"{name}_difference": difference.mean,
            f"{name}_difference_ci95": [difference.low, difference.high],
            f"{name}_p_value": difference.p_value,
        }
    return list(found.values())


def _summary(members: Sequence[Mapping[str, Any]]) -> Row:
    rows = [member["row"] for member in members]
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
    for name in members[0]["by_item"]:
        scores_SI = [member["by_item"][name] for member in members]
        found[name] = sum(map(sum, scores_SI)) / sum(map(len, scores_SI))
        if (interval := seed_item_interval(scores_SI)) is not None:
            found[f"{name}_ci95"] = list(interval)
    return found


def _paired(name: str, own: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> tuple[Scores, Scores]:
    """Item scores of the seeds that both have; all of the other's where one of them is not trained, by no seed."""
    own_by_seed, other_by_seed = (
        {record["row"]["seed"]: record["by_item"][name] for record in side} for side in (own, other)
    )
    if not (own[0]["trained"] and other[0]["trained"]):
        return list(own_by_seed.values()), list(other_by_seed.values())
    shared = sorted(own_by_seed.keys() & other_by_seed.keys())
    return [own_by_seed[seed] for seed in shared], [other_by_seed[seed] for seed in shared]
