"""Additions of a job to the results of its comparison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from skiplab.reporting.plot_style import Plot
from skiplab.reporting.record import Record
from skiplab.reporting.tables import Table


@final
@dataclass(frozen=True)
class Supplement:
    """Additions of a job to the results of its comparison.

    Attributes:
        job: the job's name.
        make: from the records of finished settings, makes tables and plots for the report.
    """

    job: str = "compare"
    make: Callable[[Sequence[Record]], tuple[list[Table], dict[str, Plot]]] = lambda records: ([], {})
