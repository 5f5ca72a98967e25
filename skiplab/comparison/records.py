"""The records of a comparison's settings, in its run folder."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from skiplab.comparison.config_base import ConfigurationError
from skiplab.reporting.record import Entry, Record, Timing
from skiplab.utils.run_folder import RunFolder

_TIMING = "timing"


@final
class Records:
    """The records of finished settings. Each is read from disk once.

    Args:
        entries: the comparison's settings, in the order of its rows.

    Raises:
        ConfigurationError: the folder's records were written by an incompatible version of skiplab.
    """

    def __init__(self, folder: RunFolder, entries: Iterable[Entry]) -> None:
        self._folder = folder
        timings: Mapping[str, Sequence[Mapping[str, Any]]] = folder.load(_TIMING) or {}
        self._found: dict[Entry, Record | None] = {}
        for entry in entries:
            record = self._read(entry)
            self._found[entry] = record and record.with_timings([Timing(**one) for one in timings.get(entry.key, ())])

    def _read(self, entry: Entry) -> Record | None:
        plain = self._folder.load(f"settings/{entry.key}")
        try:
            return None if plain is None else Record.from_plain(plain)
        except ValueError as error:
            raise ConfigurationError(
                f"{self._folder.path}/settings/{entry.key}.json: {error}; choose another folder with hydra.run.dir=DIR"
            ) from error

    def get(self, entry: Entry) -> Record | None:
        """A setting's record, from this process or another; None if it is not finished."""
        if self._found[entry] is None:
            self._found[entry] = self._read(entry)
        return self._found[entry]

    def finished(self) -> list[Record]:
        """All existing records, in the order of the rows."""
        return [record for entry in self._found if (record := self.get(entry)) is not None]

    def add(self, record: Record) -> None:
        """Save a finished setting's record."""
        self._folder.save(f"settings/{record.entry.key}", record.plain())
        self._found[record.entry] = record

    def add_timings(self, timings: Mapping[Entry, Sequence[Timing]]) -> None:
        """Save the speeds of one interleaved run, in place of all earlier ones."""
        plain = {entry.key: [vars(one) for one in found] for entry, found in timings.items()}
        self._folder.save(_TIMING, plain)
        for entry, record in self._found.items():
            self._found[entry] = record and record.with_timings(timings.get(entry, ()))
