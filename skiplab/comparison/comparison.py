"""Run one comparison: make the settings one after another, time them interleaved, then write the results."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from time import monotonic, sleep
from typing import final

from skiplab.comparison import publish
from skiplab.comparison.cases import Case
from skiplab.comparison.claims import Claims
from skiplab.comparison.decoders import Decoders
from skiplab.comparison.facts import command, header
from skiplab.comparison.growth import not_asked_for
from skiplab.comparison.hf_entries import hf_entries
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.outcome import Outcome
from skiplab.comparison.pace import Pace
from skiplab.comparison.records import Records
from skiplab.comparison.session import Session
from skiplab.comparison.settings import Settings
from skiplab.comparison.shared_work import longest_training_first, trainings
from skiplab.comparison.supplement import Supplement
from skiplab.comparison.timekeeper import Timekeeper
from skiplab.comparison.worker_count import worker_count
from skiplab.evaluation.generate import Generation
from skiplab.reporting.record import Entry, Record
from skiplab.reporting.tables import one_line
from skiplab.utils.environment import environment
from skiplab.utils.files import DiskFullError, writing
from skiplab.utils.run_log import FILE, logged_to

Helpers = Callable[[Session, str, int], AbstractContextManager[Claims]]
# Between two checks of the claims of other processes.
_POLL_SECONDS = 0.2


@final
class Comparison:
    """Runs one comparison. Finished work is kept in the run folder, and not repeated.

    Args:
        helpers: given the session, the tracker's run and a number of processes, shares the settings among them for the
            length of the context; yields the claims by which they do.
    """

    def __init__(
        self, session: Session, supplement: Supplement | None = None, *, helpers: Helpers | None = None
    ) -> None:
        self._session = session
        self._helpers = helpers
        self._workers = worker_count(session.prepared) if helpers else 1
        self._claims: Claims | None = None
        self._prepared = session.prepared
        self._config = session.prepared.config
        self._ranks = session.ranks
        self._cases: dict[Entry, Case | None] = {case.entry: case for case in self._prepared.cases}
        self._cases |= dict.fromkeys(hf_entries(self._config))
        self._full_entry = self._prepared.cases[0].entry
        self._records = Records(session.folder, self._cases)
        self._pace = Pace()
        self._models = ModelStore(session, self._pace.trained)
        self._decoders = Decoders(self._models, own=self._prepared.calibration.reference == "own")
        self._settings = Settings(session, self._models, self._decoders)
        self._errors: dict[Entry, str] = {}
        self._outcome = Outcome(session, supplement or Supplement(), self._records, self._cases, self._errors)

    def run(self) -> bool:
        """All settings, the timing, the results; True if nothing failed."""
        log = logged_to(self._session.folder.path / FILE) if self._ranks.is_first else nullcontext()
        with log, self._session.run("parent", self._session.name, nested=False) as run_id:
            self._ranks.on_first(self._note_environment)
            self._ranks.on_first(self._describe)
            self._ranks.on_first(self._print_header)
            if others := not_asked_for(self._session.folder, list(self._cases)):
                self._print(f"kept in the folder, but not part of this configuration: {', '.join(others)}")
            self._session.screen.phase("base")
            with self._shared(run_id) as self._claims:
                # On all ranks now, because making them later on one rank would deadlock.
                _ = self._models.base, self._models.lengths
                self._ranks.on_first(self._track_base_again)
                self._make_settings()
            return self._ranks.on_first(self._finish)

    def work(self, claims: Claims, go_on: Callable[[], bool]) -> None:
        """Make settings alongside other processes, until none are left or `go_on` returns False.

        Those with the longest trainings come first, so that no process ends with one alone; the comparison's own
        process follows the order of the rows.
        """
        self._claims = claims
        self._note_environment()
        self._make_settings(go_on, lambda entries: longest_training_first(entries, self._cases, self._models))

    def _shared(self, run_id: str) -> AbstractContextManager[Claims | None]:
        if self._helpers is None or self._ranks.processes > 1:
            return nullcontext()
        return self._helpers(self._session, run_id, self._workers_needed)

    def _make_settings(
        self, go_on: Callable[[], bool] = lambda: True, order: Callable[[list[Entry]], list[Entry]] = list
    ) -> None:
        """Make all settings in order; those that other processes have claimed are tried again later."""
        waiting = {entry: f"[{number}/{len(self._cases)}]" for number, entry in enumerate(self._cases, start=1)}
        ahead: Iterator[Entry] | None = None
        while waiting and go_on():
            # The full model comes first: all others are compared with its outputs.
            turn = [self._full_entry] if self._full_entry in waiting else order(list(waiting))
            made = [entry for entry in turn if go_on() and self._claim_and_attempt(entry, waiting[entry])]
            for entry in made:
                del waiting[entry]
            if made:
                continue
            ahead = ahead or iter(order(list(waiting)))
            if self._full_entry in waiting and (entry := next(ahead, None)) is not None:
                self._train_ahead(entry)
            else:
                sleep(_POLL_SECONDS)

    def _train_ahead(self, entry: Entry) -> None:
        """Train for a setting that cannot be made yet, because another process is still making the full model."""
        case = self._cases[entry]
        parts = trainings(entry, case, self._models)
        if case is None or self._claims is None or not parts:
            return
        with self._claims.attempt(parts) as mine:
            if mine:
                self._session.screen.phase(f"training for {entry.label}")
                # The setting's own attempt reports an error.
                with suppress(Exception):
                    for spec in case.candidates:
                        self._models.module(spec, entry.seed, None)

    def _claim_and_attempt(self, entry: Entry, counter: str) -> bool:
        """Attempt a setting unless another process has claimed it or its training; returns whether it was attempted."""
        if self._claims is None:
            self._attempt(entry, counter)
        else:
            finished = self._records.get(entry) is not None
            parts = [] if finished else trainings(entry, self._cases[entry], self._models)
            with self._claims.attempt([entry.key, *parts]) as mine:
                if not mine:
                    return False
                self._attempt(entry, counter)
        self._ranks.on_first(self._outcome.write)
        return True

    def report(self) -> None:
        """Write results and report of the finished settings, and make no others."""
        with self._session.run("parent", self._session.name, nested=False):
            self._describe()
            self._outcome.conclude()

    @property
    def records(self) -> list[Record]:
        """Records of the finished settings, in the order of the rows."""
        return self._records.finished()

    def _describe(self) -> None:
        publish.describe(self._session.tracker, self._config.plain, self._prepared.data, self._outcome.environment)

    def _print_header(self) -> None:
        known = self._prepared, self._outcome.environment, self._session.folder.path, self._cases
        for line in header(*known, len(self._cases) - self._unfinished, workers=self._workers_needed):
            self._print(line)

    @property
    def _unfinished(self) -> int:
        return sum(self._records.get(entry) is None for entry in self._cases)

    @property
    def _workers_needed(self) -> int:
        return max(1, min(self._workers, self._unfinished))

    def _attempt(self, entry: Entry, counter: str) -> None:
        finished = self._records.get(entry)
        if finished is None and self._claims is not None and (why := self._claims.failed(entry.key)) is not None:
            self._errors[entry] = why
            self._print(f"{counter} {entry.label}: failed: {why}", style="red")
            return
        if finished is not None:
            self._print(f"{counter} {entry.label}: already finished")
        else:
            self._session.screen.phase(f"{counter} {entry.label}", self._time_left())
            self._pace.begin()
        start = monotonic()
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
            if finished is None:
                self._pace.made(monotonic() - start)
            self._print(f"    {one_line(record.row)}")

    def _time_left(self) -> str:
        left = [entry for entry in self._cases if not self._is_done(entry)]
        cases = [(case, entry.seed) for entry in left if (case := self._cases[entry]) is not None]
        passes = self._models.passes_left((spec, seed) for case, seed in cases for spec in case.candidates)
        return self._pace.left(len(left), passes, workers=self._workers)

    def _is_done(self, entry: Entry) -> bool:
        return entry in self._errors or self._records.get(entry) is not None

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
        self._session.screen.phase("report")
        self._outcome.conclude()
        for entry, error in self._errors.items():
            self._print(f"failed {entry.label}: {error}", style="red")
        return not self._errors

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
        if (typed := command()) is not None and folder.load("command") is None:
            folder.save("command", typed)

    def _print(self, text: str, style: str | None = None) -> None:
        self._session.screen.print(text, style=style)
