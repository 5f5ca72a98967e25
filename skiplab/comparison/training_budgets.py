"""Tables and plot of a comparison's training budgets."""

from collections.abc import Callable, Sequence

from skiplab.comparison.prepare import Prepared
from skiplab.reporting.plot_style import Plot
from skiplab.reporting.record import Record
from skiplab.reporting.tables import Table
from skiplab.reporting.training_budget import Point, budget_plot, budget_tables, budgets


def budget_supplement(prepared: Prepared) -> Callable[[Sequence[Record]], tuple[list[Table], dict[str, Plot]]]:
    """A function that makes tables and plot from finished records; quality is the calibration's metric."""
    cases = {case.entry: case for case in prepared.cases}
    metric = prepared.calibration.metric

    def made(records: Sequence[Record]) -> tuple[list[Table], dict[str, Plot]]:
        points = []
        for record in records:
            case = cases.get(record.entry)
            if case is None or case.passes is None or case.delta is not None:
                continue
            speedup = case.candidates[0].params.get("speedup") or 1
            points.append(Point(case.family, case.passes, speedup, record))
        found = budgets(points)
        return (
            (budget_tables(found, metric), {"quality_by_training_time": budget_plot(found, metric)})
            if found
            else ([], {})
        )

    return made
