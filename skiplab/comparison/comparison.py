"""Run one comparison: make the settings one after another, time them interleaved, then write the results."""

import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import sleep
from typing import Any, final

from skiplab.comparison import publish
from skiplab.comparison.cases import Case, rivals
from skiplab.comparison.claims import Claims
from skiplab.comparison.decoders import Decoders
from skiplab.comparison.growth import not_asked_for
from skiplab.comparison.hf_entries import hf_entries
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.records import Records
from skiplab.comparison.session import Session
from skiplab.comparison.settings import Settings
from skiplab.comparison.supplement import Supplement
from skiplab.comparison.timekeeper import Timekeeper
from skiplab.evaluation.generate import Generation
from skiplab.reporting.record import Entry, Record
from skiplab.reporting.results import Row, write_results
from skiplab.reporting.summary import summarise
from skiplab.reporting.tables import one_line, print_table
from skiplab.training.weights import saved
from skiplab.utils.environment import environment
from skiplab.utils.files import DiskFullError, writing

Helpers = Callable[[Session, str], AbstractContextManager[Claims | None]]
# Between two checks of the claims of other processes.
_POLL_SECONDS = 0.2


@final
class Comparison:
    """Runs one comparison. Finished work is kept in the run folder, and not repeated.

    Args:
        helpers: given the session and the tracker's run, starts worker processes for the length of the context;
            yields the claims through which they share settings.
    """

    def __init__(
        self, session: Session, supplement: Supplement | None = None, *, helpers: Helpers | None = None
    ) -> None:
        self._session = session
        self._helpers = helpers
        self._claims: Claims | None = None
        self._prepared = session.prepared
        self._config = session.prepared.config
        self._ranks = session.ranks
        self._supplement = supplement or Supplement()
        self._cases: dict[Entry, Case | None] = {case.entry: case for case in self._prepared.cases}
        self._cases |= dict.fromkeys(hf_entries(self._config))
        self._full_entry = self._prepared.cases[0].entry
        self._records = Records(session.folder, self._cases)
        self._models = ModelStore(session)
        self._decoders = Decoders(self._models, own=self._prepared.calibration.reference == "own")
        self._settings = Settings(session, self._models, self._decoders)
        self._errors: dict[Entry, str] = {}

    def run(self) -> bool:
        """All settings, the timing, the results; True if nothing failed."""
        with self._session.run("parent", self._config.tracking.experiment, nested=False) as run_id:
            self._ranks.on_first(self._note_environment)
            self._ranks.on_first(self._describe)
            for note in self._prepared.notes:
                self._print(note)
            if others := not_asked_for(self._session.folder, list(self._cases)):
                self._print(f"kept in the folder, but not part of this configuration: {', '.join(others)}")
            self._print("base")
            # On all ranks now, because making them later on one rank would deadlock.
            _ = self._models.base, self._models.lengths
            self._ranks.on_first(self._track_base_again)
            with self._helpers(self._session, run_id) if self._helpers else nullcontext() as self._claims:
                self._make_settings()
            return self._ranks.on_first(self._finish)

    def work(self, claims: Claims, go_on: Callable[[], bool]) -> None:
        """Make settings alongside other processes, until none are left or `go_on` returns False."""
        self._claims = claims
        self._note_environment()
        self._make_settings(go_on)

    def _make_settings(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Make all settings in order; those that other processes have claimed are tried again later."""
        waiting = {entry: f"[{number}/{len(self._cases)}]" for number, entry in enumerate(self._cases, start=1)}
        while waiting and go_on():
            # The full model comes first: all others are compared with its outputs.
            turn = [self._full_entry] if self._full_entry in waiting else list(waiting)
            made = [entry for entry in turn if go_on() and self._claim_and_attempt(entry, waiting[entry])]
            for entry in made:
                del waiting[entry]
            if not made:
                sleep(_POLL_SECONDS)

    def _claim_and_attempt(self, entry: Entry, counter: str) -> bool:
        """Attempt a setting unless another process has claimed it or its training; returns whether it was attempted."""
        if self._claims is None:
            self._attempt(entry, counter)
        else:
            with self._claims.attempt([entry.key, *self._untrained(entry)]) as mine:
                if not mine:
                    return False
                self._attempt(entry, counter)
        self._ranks.on_first(self._write)
        return True

    def _untrained(self, entry: Entry) -> list[str]:
        """The name of a setting's training, if its weights are not trained yet."""
        case = self._cases[entry]
        if case is None or self._records.get(entry) is not None:
            return []
        folder = self._models.folder(case.candidates[0], entry.seed)
        return [] if saved(folder) else [f"training-{folder.name}"]

    def report(self) -> None:
        """Write results and report of the finished settings, and make no others."""
        with self._session.run("parent", self._config.tracking.experiment, nested=False):
            self._describe()
            self._conclude()

    @property
    def records(self) -> list[Record]:
        """Records of the finished settings, in the order of the rows."""
        return self._records.finished()

    def _describe(self) -> None:
        publish.describe(self._session.tracker, self._config.plain, self._prepared.data, self._environment)

    def _attempt(self, entry: Entry, counter: str) -> None:
        finished = self._records.get(entry)
        if finished is None and self._claims is not None and (why := self._claims.failed(entry.key)) is not None:
            self._errors[entry] = why
            self._print(f"{counter} {entry.label}: failed: {why}", style="red")
            return
        self._print(f"{counter} {entry.label}{': already finished' if finished else ''}")
        try:
            if finished is not None:
                self._complete(finished)
                return
            with writing(self._session.folder.path), self._session.run(entry.key, self._run_name(entry)) as run_id:
                self._records.add(self._made(entry, run_id))
        except DiskFullError:
            # Other settings could not be saved either.
            raise
        except Exception as error:  # noqa: BLE001 - one setting's failure must spare the others
            self._ranks.barrier()
            self._errors[entry] = why = f"{type(error).__name__}: {error}"
            if self._claims is not None:
                self._claims.fail(entry.key, why)
            self._print(f"    failed: {why}", style="red")
        else:
            record = self._records.get(entry)
            assert record is not None
            self._print(f"    {one_line(record.row)}")

    def _complete(self, finished: Record) -> None:
        """Update a finished setting for this run: its place among the other settings, its saved model, its tracking."""
        case = self._cases[finished.entry]
        if (present := self._settings.refreshed(finished, case)) != finished:
            self._records.add(present)
        self._settings.save_finished(finished, case)
        self._ranks.on_first(lambda: self._track_again(finished))

    def _made(self, entry: Entry, run_id: str) -> Record:
        try:
            full = None if entry == self._full_entry else self._full_outputs
            return self._settings.make(entry, self._cases[entry], full, run_id)
        except Exception:
            self._session.tracker.log_text(traceback.format_exc(), "error.txt")
            raise

    # Results.

    def _finish(self) -> bool:
        self._time()
        self._conclude()
        for entry, error in self._errors.items():
            self._print(f"failed {entry.label}: {error}", style="red")
        return not self._errors

    def _conclude(self) -> None:
        """Write results and report of the finished settings, and print the table."""
        summary = summarise(self._records.finished(), rivals(self._prepared.cases))
        rows = self._write(summary)
        complete = self._records.get(self._full_entry) is not None
        if complete:
            self._publish(rows, summary)
        print_table(rows, summary, self._session.console)
        if complete:
            self._print(f"report: {self._session.folder.path / 'report.html'}")
        if why := self._session.tracker.lost:
            self._print(f"not tracked: {why}; run the same command again to write it", style="red")

    def _time(self) -> None:
        """Measure the speed of the first seed's settings."""
        full = self._records.get(self._full_entry)
        timed = {
            record.entry: self._cases[record.entry]
            for record in self._records.finished()
            if record.timed and record.entry.seed == self._config.seeds[0]
        }
        if full is not None and full.entry in timed:
            keeper = Timekeeper(self._session, self._models, self._decoders, self._records)
            self._errors |= keeper.run(timed, full)

    def _write(self, summary: Sequence[Row] = ()) -> list[Row]:
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
            experiment=self._config.tracking.experiment,
            environment=self._environment,
            rows=rows,
            summary=summary,
        )
        return rows

    def _publish(self, rows: list[Row], summary: list[Row]) -> None:
        """Write the report, and log report and speeds to MLflow."""
        records, session = self._records.finished(), self._session
        tables, figures = self._supplement.make(records)
        page = publish.page(
            self._prepared, rows, summary, records, tables=tables, environment=self._environment,
            figures={**publish.figures(records, summary, self._layers(records)), **figures},
        )  # fmt: skip
        publish.publish(session.tracker, session.folder.path, page)
        run_ids = session.run_ids
        for record in records:
            for timing in record.timings:
                publish.track_timing(session.tracker, run_ids.get(record.entry.key), timing)

    def _layers(self, records: Sequence[Record]) -> dict[str, Any]:
        """Times by layer of these records' settings."""
        known, shown = self._session.folder.load("layers") or {}, {record.entry.label for record in records}
        return {label: times for label, times in known.items() if label in shown}

    # Fill a new store, or one that was lost during the run.

    def _track_again(self, record: Record) -> None:
        """Log a finished setting to a store that lacks some or all of it."""
        entry, tracker = record.entry, self._session.tracker
        if tracker.complete(self._session.run_ids.get(entry.key)):
            return
        with self._session.run(entry.key, self._run_name(entry)) as run_id:
            case = self._cases[entry]
            spec = None if case is None or record.chosen is None else case.candidates[record.chosen]
            tracker.log_params({**vars(entry), **(spec.params if spec else {})})
            publish.track_outputs(tracker, record, self._full_outputs, self._prepared.data.items("test"))
            if spec is not None:
                tracker.log_points(run_id, self._models.curves(spec, entry.seed))

    def _track_base_again(self) -> None:
        known = self._session.run_ids.get("base")
        if known and not self._session.tracker.complete(known):
            with self._session.run("base", "base") as run_id:
                self._session.tracker.log_points(run_id, self._models.base_curves)

    # Shared parts.

    def _run_name(self, entry: Entry) -> str:
        return f"{entry.label} seed {entry.seed}" if len(self._config.seeds) > 1 else entry.label

    @property
    def _full_outputs(self) -> Generation:
        record = self._records.get(self._full_entry)
        if record is None:
            raise RuntimeError("the full model has no outputs to compare with, because it failed")
        return record.outputs

    def _note_environment(self) -> None:
        """Record the current environment, in addition to earlier ones."""
        folder = self._session.folder
        known = folder.load("environments") or []
        present = environment(self._config.seeds, processes=self._ranks.processes)
        if present not in known:
            folder.save("environments", [*known, present])

    @property
    def _environment(self) -> dict[str, Any]:
        """The environment in which the run began, and the different ones in which it was resumed."""
        first, *later = self._session.folder.load("environments") or [{}]
        return {**first, "continued_under": later} if later else first

    def _print(self, text: str, style: str | None = None) -> None:
        self._session.console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)
