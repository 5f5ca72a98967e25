"""What a job that ends in a comparison adds to its results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from skiplab.reporting.record import Record
from skiplab.reporting.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
@dataclass(frozen=True)
class Supplement:
    """What a job that ends in a comparison adds to its results.

    Attributes:
        job: its name.
        make: from the finished settings' records, tables and plots for the report.
    """

    job: str = "compare"
    make: Callable[[Sequence[Record]], "tuple[list[Table], dict[str, Figure]]"] = lambda records: ([], {})
