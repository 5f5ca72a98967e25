"""How the processes of one comparison divide its settings: what only one of them may do, and in which order."""

from collections.abc import Iterable, Mapping

from skiplab.comparison.cases import Case
from skiplab.comparison.model_store import ModelStore
from skiplab.reporting.record import Entry
from skiplab.reporting.tables import slug
from skiplab.training.weights import saved


def shared_parts(entry: Entry, case: Case | None, models: ModelStore) -> list[str]:
    """Names of the parts of a setting that serve other settings too: its training, if not done, and its calibration."""
    if case is None:
        return []
    folder = models.folder(case.candidates[0], entry.seed)
    training = [] if saved(folder) else [f"training-{folder.name}"]
    # The hypotheses that one delta needs are also another's.
    calibration = [] if case.delta is None else [f"calibration-{slug(case.series)}-seed-{entry.seed}"]
    return [*training, *calibration]


def longest_training_first(
    entries: Iterable[Entry], cases: Mapping[Entry, Case | None], models: ModelStore
) -> list[Entry]:
    """Settings by the passes of the trainings that they still need."""

    def passes(entry: Entry) -> int:
        case = cases[entry]
        return 0 if case is None else models.passes_left([(spec, entry.seed) for spec in case.candidates])

    return sorted(entries, key=passes, reverse=True)
