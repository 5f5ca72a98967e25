"""The results of a comparison: files in its run folder, and what the tracker and the console show of them."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from skiplab.comparison import publish
from skiplab.comparison.cases import Case, rivals
from skiplab.comparison.records import Records
from skiplab.comparison.session import Session
from skiplab.comparison.supplement import Supplement
from skiplab.reporting.console_table import console_table
from skiplab.reporting.headline import headline
from skiplab.reporting.record import Entry
from skiplab.reporting.results import Row, write_results
from skiplab.reporting.summary import summarise
from skiplab.reporting.twins import twins_note


@final
class Outcome:
    """Writes results and report of the settings that are finished.

    Args:
        cases: all settings, the full model first.
        errors: of the settings that failed; the comparison adds to it.
    """

    def __init__(
        self,
        session: Session,
        supplement: Supplement,
        records: Records,
        cases: Mapping[Entry, Case | None],
        errors: Mapping[Entry, str],
    ) -> None:
        self._session = session
        self._supplement = supplement
        self._records = records
        self._cases = cases
        self._errors = errors

    def write(self, summary: Sequence[Row] = ()) -> list[Row]:
        """Write the rows of all settings tried so far, one per timed batch size, to the results files."""
        rows: list[Row] = []
        for entry in self._cases:
            failed = {"error": self._errors[entry]} if entry in self._errors else {}
            if (record := self._records.get(entry)) is not None:
                rows += [{**row, **failed} for row in record.rows()]
            elif failed:
                rows.append({**vars(entry), **failed})
        write_results(
            self._session.folder.path,
            job=self._supplement.job,
            experiment=self._session.prepared.config.tracking.experiment,
            environment=self.environment,
            rows=rows,
            summary=summary,
        )
        return rows

    def conclude(self) -> None:
        """Write results and report, and print table and sentences."""
        session = self._session
        summary = summarise(self._records.finished(), rivals(session.prepared.cases))
        rows = self.write(summary)
        complete = self._records.get(next(iter(self._cases))) is not None
        found = headline(rows, summary)
        if complete:
            self._publish(rows, summary)
            session.tracker.log_figures(found.figures)
        session.screen.table(lambda width: console_table(rows, summary, width))
        if note := twins_note(summary):
            session.screen.print(note)
        for sentence in found.sentences:
            session.screen.print(f"- {sentence}")
        if complete:
            session.screen.print(f"report: {session.folder.path / 'report.html'}")
        if why := session.tracker.lost:
            session.screen.print(f"not tracked: {why}; run the same command again to write it", style="red")

    def _publish(self, rows: list[Row], summary: list[Row]) -> None:
        """Write the report, and log report and speeds to the tracker."""
        records, session = self._records.finished(), self._session
        tables, plots = self._supplement.make(records)
        page = publish.page(
            session, rows, summary, records, tables=tables, environment=self.environment, plots=plots,
        )  # fmt: skip
        publish.publish(session.tracker, session.folder.path, page)
        run_ids = session.run_ids
        for record in records:
            for timing in record.timings:
                publish.track_timing(session.tracker, run_ids.get(record.entry.key), timing)

    @property
    def environment(self) -> dict[str, Any]:
        """The environment in which the run began, and the different ones in which it was resumed."""
        first, *later = self._session.folder.load("environments") or [{}]
        return {**first, "continued_under": later} if later else first
