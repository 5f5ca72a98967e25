"""Compare methods on one shared base: train, decode, score, then time all of them in turns."""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from rich.console import Console
from rich.progress import track

from skiplab.comparison import publish
from skiplab.comparison.cases import Case, Entry, rivals
from skiplab.comparison.decoders import Decoders
from skiplab.comparison.model_store import Models
from skiplab.comparison.prepare import ConfigurationError, Prepared
from skiplab.comparison.settings import Settings
from skiplab.comparison.timekeeper import Timekeeper
from skiplab.evaluation.generate import Generation
from skiplab.reporting import mlflow_store
from skiplab.reporting.results import Row, write_results
from skiplab.reporting.summary import summarise
from skiplab.reporting.tables import Table, one_line, print_table
from skiplab.training.trainer import SPREAD
from skiplab.utils import distributed
from skiplab.utils.environment import environment, git_revision
from skiplab.utils.files import DiskFullError, writing
from skiplab.utils.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def open_folder(prepared: Prepared, run_dir: Path, *, free: Sequence[str] = ()) -> RunFolder:
    """The run folder bound to the configuration, and the tracking store connected.

    How training is spread over devices may change from run to run.

    Args:
        free: parts of the configuration that may change from run to run, nested keys with dots.

    Raises:
        ConfigurationError: the folder holds results of another configuration, or the store cannot be used.
    """
    comparable = json.loads(json.dumps(prepared.config.plain))
    for key in ("tracking", "cache_dir", "checkpoint_every", *(f"trainer.{name}" for name in SPREAD), *free):
        *path, last = key.split(".")
        node = comparable
        for name in path:
            node = node[name]
        node.pop(last, None)
    folder = RunFolder(run_dir)
    try:
        folder.check(comparable)
        store = prepared.config.tracking
        distributed.on_first(lambda: mlflow_store.connect(store.uri, store.experiment))
        folder.bind(comparable)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return folder


@dataclass(frozen=True)
class Supplement:
    """What a job that ends in a comparison adds to its results.

    Attributes:
        job: its name.
        make: from the finished settings' records by key, tables and plots for the report.
    """

    job: str = "compare"
    make: Callable[[Mapping[str, Any]], "tuple[list[Table], dict[str, Figure]]"] = lambda records: ([], {})


@final
class Comparison:
    """One comparison under way. What is finished is a file in the run folder, and is not made again."""

    def __init__(
        self, prepared: Prepared, folder: RunFolder, console: Console, supplement: Supplement | None = None
    ) -> None:
        self._prepared = prepared
        self._supplement = supplement or Supplement()
        self._config = prepared.config
        self._data = prepared.data
        self._folder = folder
        self._console = console
        self._models = Models(prepared, folder.path, lambda: self._tracked("base", "base", nested=True))
        self._cases: dict[Entry, Case | None] = {case.entry: case for case in prepared.cases}
        if self._config.benchmark.batch_sizes:
            self._cases[Entry("hf_generate", "full depth", self._config.seeds[0])] = None
        self._decoders = Decoders(self._models, own=prepared.calibration.reference == "own")
        self._settings = Settings(prepared, self._models, self._decoders, folder, self._progress)
        self._errors: dict[Entry, str] = {}

    def run(self) -> bool:
        """All settings, the timing, the results; True if nothing failed."""
        with self._tracked("parent", self._config.tracking.experiment, nested=False):
            distributed.on_first(lambda: publish.describe(self._config.plain, self._data, self._environment))
            for note in self._prepared.notes:
                self._console.print(note, soft_wrap=True, highlight=False)
            self._console.print("base")
            # By all ranks together, so that none meets them alone later.
            _ = self._models.base, self._models.lengths
            distributed.on_first(self._track_base_again)
            for number, entry in enumerate(self._cases, start=1):
                self._attempt(entry, f"[{number}/{len(self._cases)}]")
                distributed.on_first(self._write)
            return distributed.on_first(self._finish)

    def _finish(self) -> bool:
        self._time()
        summary = self._summary()
        rows = self._write(summary)
        if published := self._record(self._full_entry) is not None:
            self._publish(rows, summary)
        print_table(rows, summary, self._console)
        if published:
            self._console.print(f"report: {self._folder.path / 'report.html'}", soft_wrap=True, highlight=False)
        if why := mlflow_store.lost():
            self._console.print(
                f"[red]not tracked[/]: {why}; the same command writes it", soft_wrap=True, highlight=False
            )
        for entry, error in self._errors.items():
            self._console.print(f"[red]failed[/] {entry.label}: {error}", soft_wrap=True, highlight=False)
        return not self._errors

    def _attempt(self, entry: Entry, counter: str) -> None:
        if (finished := self._record(entry)) is not None:
            self._console.print(f"{counter} {entry.label}: finished before")
            distributed.on_first(lambda: self._track_again(entry, finished))
            return
        self._console.print(f"{counter} {entry.label}")
        try:
            with (
                writing(self._folder.path),
                self._tracked(entry.key, self._run_name(entry), nested=True) as run_id,
            ):
                try:
                    full = None if entry == self._full_entry else self._full_outputs
                    record = self._settings.make(entry, self._cases[entry], full, run_id)
                except Exception:
                    mlflow_store.log_text(traceback.format_exc(), "error.txt")
                    raise
                self._folder.save(f"settings/{entry.key}", record)
        except DiskFullError:
            # The others would train for nothing.
            raise
        except Exception as error:  # noqa: BLE001 - one setting's failure must spare the others
            distributed.meet()
            self._errors[entry] = f"{type(error).__name__}: {error}"
            self._console.print(f"    [red]failed[/]: {self._errors[entry]}", soft_wrap=True, highlight=False)
        else:
            self._console.print(f"    {one_line(record['row'])}", highlight=False, soft_wrap=True)

    def _time(self) -> None:
        """Speed, of the first seed's settings."""
        of_seed = {entry: self._record(entry) for entry in self._cases if entry.seed == self._config.seeds[0]}
        places = {entry: record["candidate"] for entry, record in of_seed.items() if record and record["timed"]}
        if self._full_entry in places:
            keeper = Timekeeper(self._prepared, self._models, self._decoders, self._folder, self._console)
            cases = {entry: self._cases[entry] for entry in places}
            self._errors |= keeper.run(cases, places, [len(tokens) for tokens in self._full_outputs.tokens])

    # Results.

    def _write(self, summary: Sequence[Row] = ()) -> list[Row]:
        """Rows of all settings tried so far, one per timed batch size, to the results files."""
        timing = self._folder.load("timing") or {}
        rows: list[Row] = []
        for entry in self._cases:
            record = self._record(entry)
            if record is not None:
                speeds = [part["row"] for part in timing.get(entry.key, [])] or [{}]
                failed = {"error": self._errors[entry]} if entry in self._errors else {}
                rows += [{**record["row"], **speed, **failed} for speed in speeds]
            elif entry in self._errors:
                rows.append({**vars(entry), "error": self._errors[entry]})
        write_results(
            self._folder.path,
            job=self._supplement.job,
            experiment=self._config.tracking.experiment,
            environment=self._environment,
            rows=rows,
            summary=summary,
        )
        return rows

    def _summary(self) -> list[Row]:
        records = [record for entry in self._cases if (record := self._record(entry))]
        return summarise(records, rivals(self._prepared.cases))

    def _publish(self, rows: list[Row], summary: list[Row]) -> None:
        """The report, and everything to MLflow."""
        records = {entry.key: record for entry in self._cases if (record := self._record(entry))}
        timing = self._folder.load("timing") or {}
        tables, figures = self._supplement.make(records)
        page = publish.page(
            self._prepared, rows, summary, list(records.values()), tables=tables, environment=self._environment,
            figures={**publish.figures(records, summary, timing, self._folder.load("layers")), **figures},
        )  # fmt: skip
        publish.publish(self._folder.path, page)
        tracked = self._folder.load("mlflow") or {}
        for key, parts in timing.items():
            for part in parts:
                publish.track_timing(tracked.get(key), part)

    # MLflow.

    @contextmanager
    def _tracked(self, key: str, name: str, *, nested: bool) -> Iterator[str]:
        """The MLflow run of a piece of work; an earlier attempt's run goes on."""
        known = self._folder.load("mlflow") or {}
        with mlflow_store.run(name, run_id=known.get(key), nested=nested, tags=git_revision()) as run_id:
            self._folder.save("mlflow", known | ({key: run_id} if run_id else {}))
            yield run_id

    def _run_name(self, entry: Entry) -> str:
        return f"{entry.label} seed {entry.seed}" if len(self._config.seeds) > 1 else entry.label

    def _track_again(self, entry: Entry, record: dict[str, Any]) -> None:
        """Give a finished setting a run in a store that has none, or not all, of it."""
        if not mlflow_store.complete((self._folder.load("mlflow") or {}).get(entry.key)):
            with self._tracked(entry.key, self._run_name(entry), nested=True) as run_id:
                outputs, case, place = Generation(**record["outputs"]), self._cases[entry], record["candidate"]
                candidate = None if case is None or place is None else case.candidates[place]
                mlflow_store.log_params({**vars(entry), **(candidate.params if candidate else {})})
                publish.track_outputs(record["row"], outputs, self._full_outputs, self._data.items("test"))
                if candidate is not None:
                    mlflow_store.log_points(run_id, self._models.curves(candidate, entry.seed))

    def _track_base_again(self) -> None:
        known = (self._folder.load("mlflow") or {}).get("base")
        if known and not mlflow_store.complete(known):
            with self._tracked("base", "base", nested=True) as run_id:
                mlflow_store.log_points(run_id, self._models.base_curves)

    # Shared parts.

    @property
    def _full_entry(self) -> Entry:
        return self._prepared.cases[0].entry

    @property
    def _full_outputs(self) -> Generation:
        record = self._record(self._full_entry)
        if record is None:
            raise RuntimeError("the full model has no outputs to compare with, because it failed")
        return Generation(**record["outputs"])

    @cached_property
    def _environment(self) -> dict[str, Any]:
        """The environment that the run began in, with those that it went on in where they differ."""
        known = self._folder.load("environments") or []
        present = environment(self._config.seeds)
        if present not in known:
            known.append(present)
            self._folder.save("environments", known)
        first, *later = known
        return {**first, "continued_under": later} if later else first

    def _record(self, entry: Entry) -> dict[str, Any] | None:
        return self._folder.load(f"settings/{entry.key}")

    def _progress(self, work: Any) -> Any:
        return track(list(work), console=self._console, transient=True)
