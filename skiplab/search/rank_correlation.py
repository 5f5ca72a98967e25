"""Whether a cheap measure ranks schedules as full fine-tuning does."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from skiplab.reporting.tables import Cell, Table


def fidelity_table(
    cheap: Mapping[str, Sequence[float]], full: Mapping[str, Sequence[float]], budgets: Sequence[float | None]
) -> Table:
    """How cheap losses rank schedules against figures after full fine-tuning, lower being better in all.

    Args:
        cheap: by fidelity, one loss per schedule.
        full: by name, one figure per schedule, in the same order.
        budgets: what each schedule was made for; schedules of one budget are compared among themselves too, because
            any measure ranks fewer layers as worse.
    """
    from scipy.stats import kendalltau, spearmanr

    count = len(budgets)
    head = [
        "fidelity",
        "against, after full fine-tuning",
        "schedules",
        "Spearman",
        "Kendall",
        "agreeing pairs of one speedup",
    ]
    table = Table("Do the cheap losses rank schedules as fine-tuning does?", head)
    for fidelity, losses in cheap.items():
        for name, figures in full.items():
            ranked = count > 2 and len(set(losses)) > 1 and len(set(figures)) > 1
            same, pairs = concordance(losses, figures, budgets)
            table.lines.append(
                [
                    Cell(fidelity), Cell(name), Cell(str(count)),
                    Cell(f"{spearmanr(losses, figures)[0]:.2f}" if ranked else ""),
                    Cell(f"{kendalltau(losses, figures)[0]:.2f}" if ranked else ""),
                    Cell(f"{same} of {pairs}"),
                ]
            )  # fmt: skip
    return table


def concordance(one: Sequence[float], other: Sequence[float], budgets: Sequence[float | None]) -> tuple[int, int]:
    """Pairs of one budget that both put in the same order, and all pairs of one budget without a tie."""
    pairs = [
        ((one[a] - one[b]) * (other[a] - other[b]))
        for a, b in combinations(range(len(budgets)), 2)
        if budgets[a] is not None and budgets[a] == budgets[b]
    ]
    untied = [product for product in pairs if product != 0]
    return sum(product > 0 for product in untied), len(untied)
