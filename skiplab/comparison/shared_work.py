"""How the processes of one comparison divide its settings: what only one of them may do, and in which order."""

from collections.abc import Iterable, Mapping

from skiplab.comparison.cases import Case
from skiplab.comparison.model_store import ModelStore
from skiplab.reporting.record import Entry


def trainings(entry: Entry, case: Case | None, models: ModelStore) -> list[str]:
    """Names of the trainings that a setting still needs; they can serve other settings too."""
    left = {} if case is None else models.trainings_left((spec, entry.seed) for spec in case.candidates)
    return [f"training-{folder.name}" for folder in left]


def longest_training_first(
    entries: Iterable[Entry], cases: Mapping[Entry, Case | None], models: ModelStore
) -> list[Entry]:
    """Settings by the passes of the trainings that they still need."""

    def passes(entry: Entry) -> int:
        case = cases[entry]
        return 0 if case is None else models.passes_left([(spec, entry.seed) for spec in case.candidates])

    return sorted(entries, key=passes, reverse=True)
