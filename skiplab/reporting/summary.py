"""Settings over their seeds, and each against its rival: means, intervals and paired tests."""

from collections.abc import Mapping, Sequence

from skiplab.evaluation.significance import paired_difference, seed_item_interval
from skiplab.reporting.record import Record, Setting
from skiplab.reporting.results import Row

# Figures of rows that are averaged as they are.
_PLAIN = ("target_speedup", "layer_speedup", "mean_depth", "threshold", "perplexity", "bleu", "test_loss")


def summarise(records: Sequence[Record], rivals: Mapping[Setting, Setting]) -> list[Row]:
    """One row per method and setting, in the records' order.

    Args:
        records: finished settings, seed by seed.
        rivals: the setting that a setting is tested against.
    """
    groups: dict[Setting, list[Record]] = {}
    for record in records:
        groups.setdefault(record.entry.over_seeds, []).append(record)
    return [_summary(members, rivals.get(setting), groups) for setting, members in groups.items()]


def _summary(members: Sequence[Record], rival: Setting | None, groups: Mapping[Setting, Sequence[Record]]) -> Row:
    rows = [member.row for member in members]
    found: Row = {
        "method": rows[0]["method"],
        "setting": rows[0]["setting"],
        "seeds": [row["seed"] for row in rows],
    }
    for name in _PLAIN:
        if all(name in row for row in rows):
            found[name] = sum(row[name] for row in rows) / len(rows)
    if all("calibrated" in row for row in rows):
        found["calibrated"] = ", ".join(dict.fromkeys(row["calibrated"] for row in rows))
    if len(rows) == 1:
        found |= {name: rows[0][name] for name in ("bleu_ci95", "test_loss_ci95") if name in rows[0]}
    else:
        found["bleu_seeds"] = [min(row["bleu"] for row in rows), max(row["bleu"] for row in rows)]
    for name in members[0].item_scores:
        scores_SI = [member.item_scores[name] for member in members]
        found[name] = sum(map(sum, scores_SI)) / sum(map(len, scores_SI))
        if (interval := seed_item_interval(scores_SI)) is not None:
            found[f"{name}_ci95"] = list(interval)
    if rival is not None and rival in groups and len(members[0].item_scores["rouge_l"]) > 1:
        found["against"] = str(rival)
        for name in members[0].item_scores:
            found |= _difference(name, *_paired(name, members, groups[rival]))
    return found


def _paired(
    name: str, own: Sequence[Record], other: Sequence[Record]
) -> tuple[list[Sequence[float]], list[Sequence[float]]]:
    """Item scores of the seeds that both have; all of the other's where one of them is not trained, by no seed."""
    own_by_seed, other_by_seed = (
        {record.entry.seed: record.item_scores[name] for record in side} for side in (own, other)
    )
    if not (own[0].trained and other[0].trained):
        return list(own_by_seed.values()), list(other_by_seed.values())
    shared = sorted(own_by_seed.keys() & other_by_seed.keys())
    return [own_by_seed[seed] for seed in shared], [other_by_seed[seed] for seed in shared]


def _difference(name: str, own_SI: list[Sequence[float]], other_SI: list[Sequence[float]]) -> Row:
    if not own_SI:
        return {}
    found = paired_difference(own_SI, other_SI)
    return {
        f"{name}_difference": found.mean,
        f"{name}_difference_ci95": [found.low, found.high],
        f"{name}_p_value": found.p_value,
    }
