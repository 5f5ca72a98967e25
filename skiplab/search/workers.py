"""Run a study: in this process, or in several that can be killed."""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from omegaconf import OmegaConf
from optuna.study import Study
from optuna.trial import FrozenTrial
from rich.progress import Progress

from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.prepare import Prepared, prepare
from skiplab.comparison.session import Session, open_tracker
from skiplab.search.judge import Judge
from skiplab.search.spec import SearchSpec
from skiplab.search.study import (
    RUN,
    SamplerName,
    Workers,
    new_pruner,
    new_sampler,
    open_storage,
    open_study,
    retry_lost,
)
from skiplab.search.trials import INTERRUPTED, Objective, is_done, judged
from skiplab.utils.run_folder import RunFolder

Shown = Callable[[Sequence[FrozenTrial]], None]


def study_of(prepared: Prepared, spec: SearchSpec, name: str, *, worker: int = 0) -> Study:
    """A study of the search by name, with its sampler seeded for a worker.

    Raises:
        ValueError: the storage cannot be used, or holds another search of that name.
    """
    identity = {**spec.identity, "base": prepared.base_key, "trainer": prepared.trainer.recipe}
    sampler: SamplerName = spec.samplers[name]  # type: ignore[assignment]
    storage = open_storage(spec.storage)
    open_ = {"directions": spec.objectives, "identity": identity, "pruner": new_pruner(spec.pruner)}  # type: ignore[arg-type]
    study = open_study(storage, name, **open_)
    # A study that goes on must not be offered its first suggestions again.
    study.sampler = new_sampler(sampler, spec.seed + 1009 * worker + 1_000_003 * len(study.trials))
    return study


@final
class StudyRunner:
    """Runs the search's studies up to their number of trials."""

    def __init__(self, session: Session, spec: SearchSpec, judge: Judge) -> None:
        self._session = session
        self._spec = spec
        self._judge = judge
        self._workers = Workers(session.folder.path / "workers")

    def run(self, name: str, parent: str, workers: int) -> None:
        """Run a study to its end.

        Args:
            parent: MLflow run of the study.

        Raises:
            RuntimeError: no worker is left.
        """
        study = study_of(self._session.prepared, self._spec, name)
        self.retry(study)
        if is_done(trials_of(study), self._spec.trials):
            return
        with self._progress(name, study) as shown:
            if workers == 1:
                work(self._session, self._spec, self._judge, name, parent, after=shown)
            else:
                self._run_processes(study, name, parent, workers, shown)

    def retry(self, study: Study) -> None:
        """Queue the trials of dead workers again, and say so."""
        for trial in retry_lost(study, self._workers):
            if run_id := trial.user_attrs.get(RUN):
                self._session.tracker.end_lost_run(run_id)
            self._session.screen.print(f"    trial {trial.number} lost its worker and is retried")

    def _run_processes(self, study: Study, name: str, parent: str, count: int, shown: Shown) -> None:
        context = multiprocessing.get_context("spawn")
        arguments = (
            self._session.prepared.config.plain,
            os.fspath(self._session.folder.path),
            name,
            parent,
            os.getpid(),
        )
        processes = [
            context.Process(target=work_apart, args=(*arguments, number), name=f"worker {number}")
            for number in range(count)
        ]
        for process in processes:
            process.start()
        alive = list(processes)
        while alive:
            alive[0].join(timeout=0.5)
            for process in [process for process in alive if not process.is_alive()]:
                alive.remove(process)
                if process.exitcode:
                    self._session.screen.print(f"    {process.name} ended with exit code {process.exitcode}")
                    self.retry(study)
            shown(trials_of(study))
        if not is_done(trials_of(study), self._spec.trials):
            done = f"{len(judged(trials_of(study)))} of {self._spec.trials} trials"
            raise RuntimeError(f"study {name} has no worker left ({done}); run the same command again to resume it")

    def _progress(self, name: str, study: Study) -> "_Shown":
        return _Shown(name, study, self._spec.trials, self._session.screen.bar())


def work(
    session: Session,
    spec: SearchSpec,
    judge: Judge,
    name: str,
    parent: str,
    *,
    worker: int = 0,
    after: Shown = lambda trials: None,
    owner: int | None = None,
) -> None:
    """Run trials until the study has its number.

    Args:
        parent: MLflow run of the study.
        after: called after each trial with all trials.
        owner: parent process; the worker stops when it ends.
    """
    study = study_of(session.prepared, spec, name, worker=worker)
    with Workers(session.folder.path / "workers").alive() as own:
        objective = Objective(spec, judge, session.tracker, parent=parent, worker=own)

        def stop(study: Study, trial: Any) -> None:
            trials = trials_of(study)
            after(trials)
            if is_done(trials, spec.trials) or (owner is not None and os.getppid() != owner):
                study.stop()

        try:
            if not is_done(trials_of(study), spec.trials):
                study.optimize(objective, catch=(Exception,), callbacks=[stop])
        except SystemExit as exit_:
            # From a trial that Ctrl-C cut off, and left running for the next start to find.
            if exit_.code == INTERRUPTED:
                raise KeyboardInterrupt from None
            raise
    session.folder.save(f"seconds/{name}-{own}", {"study": name, "seconds": dict(objective.seconds)})


def work_apart(config: Mapping[str, Any], run_dir: str, name: str, parent: str, owner: int, worker: int) -> None:
    """`work` in a process of its own, from the configuration alone."""
    from skiplab.utils.quiet import quiet

    quiet(threads=config["threads"])
    prepared = prepare(OmegaConf.create(dict(config)))
    spec = prepared.config.search
    session = Session(prepared, RunFolder(Path(run_dir)), open_tracker(prepared.config))
    judge = Judge(session, ModelStore(session), spec)
    judge.prepare()
    work(session, spec, judge, name, parent, worker=worker, owner=owner)


def trials_of(study: Study) -> list[FrozenTrial]:
    """A study's trials as they are now."""
    return study.get_trials(deepcopy=False)


class _Shown:
    """A progress bar over a study's trials."""

    def __init__(self, name: str, study: Study, trials: int, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task(f"trials of {name}", total=trials, completed=len(judged(trials_of(study))))

    def __enter__(self) -> Shown:
        self._bar.__enter__()
        return lambda trials: self._bar.update(self._task, completed=len(judged(trials)))

    def __exit__(self, *details: Any) -> None:
        self._bar.__exit__(*details)
