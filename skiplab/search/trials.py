"""One trial of a search: from Optuna's suggestion to values, a note and an MLflow run."""

import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, final

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from skiplab.reporting.tracker import Tracker
from skiplab.schedules.nested_plan import NestedPlan
from skiplab.search.judge import Judge
from skiplab.search.plan_svg import plan_svg
from skiplab.search.space import InfeasibleScheduleError, plan_of, training_of
from skiplab.search.spec import SearchSpec, violation
from skiplab.search.study import RUN, WORKER

STEPS, TRAINING, DUPLICATE, ERROR, FIGURES = "steps_by_layer", "training", "duplicate_of", "error", "figures"
INTERRUPTED = 130
# All trials, duplicates and infeasible ones included, per schedule that is judged.
_MAX_ATTEMPTS_PER_TRIAL = 10


@final
class Objective:
    """What Optuna optimizes. Infeasible and duplicate trials are not evaluated.

    Args:
        parent: MLflow run of the study.
        worker: name of the worker that runs it.
    """

    def __init__(self, spec: SearchSpec, judge: Judge, tracker: Tracker, *, parent: str, worker: str) -> None:
        self._spec = spec
        self._judge = judge
        self._tracker = tracker
        self._parent = parent
        self._worker = worker
        self._artifacts = FileSystemArtifactStore(Path(spec.artifacts).absolute())
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, trial: Trial) -> tuple[float, ...]:
        with self._timed("optuna"):
            trial.set_user_attr(WORKER, self._worker)
            params = self._spec.space.suggest(trial, self._judge.lengths)
        with self._timed("mlflow"):
            tags = {"optuna.study": trial.study.study_name, "optuna.trial": trial.number}
            run_id = self._tracker.new_run(f"trial {trial.number}", self._parent, tags)
        with self._timed("optuna"):
            trial.set_user_attr(RUN, run_id)
        status, figures, note = "KILLED", {}, ""
        try:
            plan, training = self._feasible(trial, params)
            figures = self._figures(trial, plan, training)
            self._constrain(trial, figures)
            status, note = "FINISHED", _note(plan, figures, trial.user_attrs.get(DUPLICATE))
            return tuple(figures[metric] for metric in self._spec.objectives)
        except optuna.TrialPruned as pruned:
            status, note = "FINISHED", f"pruned: {pruned}"
            trial.set_user_attr("pruned", str(pruned))
            raise
        except KeyboardInterrupt:
            # The trial stays in state RUNNING, so that it is retried like one whose worker died.
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            status, note = "FAILED", f"failed: {type(error).__name__}: {error}"
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            raise
        finally:
            with self._timed("mlflow"):
                self._tracker.finish_run(run_id, status, params=params, figures=figures, note=note)
            with self._timed("dashboard"):
                if figures or status == "FAILED":
                    save_note(trial, f"{note}\n\nMLflow run `{run_id}`, parent `{self._parent}`")

    def _feasible(self, trial: Trial, params: Mapping[str, Any]) -> tuple[NestedPlan, dict[str, Any]]:
        """The plan, if there is one and it keeps the constraints that can be told without judging it, and SkipDecode's
        keywords beside it."""
        try:
            plan, training = plan_of(params, self._judge.num_layers, self._judge.steps), training_of(params)
        except InfeasibleScheduleError as error:
            trial.set_constraint("schedule", error.excess)
            raise optuna.TrialPruned(str(error)) from error
        with self._timed("optuna"):
            trial.set_constraint("schedule", 0.0)
            trial.set_user_attr(STEPS, list(plan.steps_L))
        planned = self._judge.planned(plan, training)
        broken = []
        for metric, bounds in self._spec.constraints.items():
            if metric in planned:
                trial.set_constraint(metric, violation(planned[metric], bounds))
                if violation(planned[metric], bounds) > 0:
                    broken.append(f"{metric} is {planned[metric]:.3g}")
        if broken:
            raise optuna.TrialPruned(f"breaks a constraint: {', '.join(broken)}")
        with self._timed("dashboard"):
            self._picture(trial, plan, planned["layer_speedup"])
        return plan, training

    def _figures(self, trial: Trial, plan: NestedPlan, training: dict[str, Any]) -> dict[str, float]:
        with self._timed("optuna"):
            if training:
                trial.set_user_attr(TRAINING, training)
            twin = _twin(trial.study, plan, training)
        if twin is not None:
            trial.set_user_attr(DUPLICATE, twin.number)
            figures = dict(twin.user_attrs[FIGURES])
        else:
            with self._timed("judging"):
                figures = self._judge.figures(plan, training, _report(trial) if self._spec.pruner else None)
        for metric in self._spec.objectives:
            if not math.isfinite(figures[metric]):
                raise ValueError(f"{metric} is {figures[metric]}")
        with self._timed("optuna"):
            trial.set_user_attr(FIGURES, figures)
        return figures

    def _constrain(self, trial: Trial, figures: Mapping[str, float]) -> None:
        for metric, bounds in self._spec.constraints.items():
            if metric not in trial.constraints:
                trial.set_constraint(metric, violation(figures[metric], bounds))

    def _picture(self, trial: Trial, plan: NestedPlan, speedup: float) -> None:
        """The plan's picture as an artifact of the trial."""
        Path(self._spec.artifacts).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.svg"
            longest = len(self._judge.reach)
            path.write_text(plan_svg(plan, longest, f"trial {trial.number}: {speedup:.2f}x"))
            upload_artifact(artifact_store=self._artifacts, file_path=os.fspath(path), study_or_trial=trial)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += perf_counter() - began


def judged(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that were judged, or cut short while they were: what the search's number of trials counts."""
    return [
        trial
        for trial in trials
        if DUPLICATE not in trial.user_attrs
        and (trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and trial.intermediate_values))
    ]


def is_done(trials: Sequence[FrozenTrial], count: int) -> bool:
    """Whether `count` trials were judged, or so many failed or repeated that the space seems exhausted."""
    ended = sum(trial.state.is_finished() for trial in trials)
    return len(judged(trials)) >= count or ended >= _MAX_ATTEMPTS_PER_TRIAL * count


def save_note(study_or_trial: Study | Trial, text: str) -> None:
    """A note that optuna-dashboard shows, where that is installed."""
    try:
        import optuna_dashboard  # type: ignore[import-not-found]
    except ImportError:
        return
    optuna_dashboard.save_note(study_or_trial, text)


def _twin(study: Study, plan: NestedPlan, training: Mapping[str, Any]) -> FrozenTrial | None:
    """The first trial of the same plan and training that has its figures."""
    sought = list(plan.steps_L), training
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        attrs = trial.user_attrs
        if FIGURES in attrs and (attrs.get(STEPS), attrs.get(TRAINING, {})) == sought:
            return trial
    return None


def _report(trial: Trial) -> Callable[[int, float], None]:
    def report(step: int, loss: float) -> None:
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned(f"a loss of {loss:.4f} at step {step}")

    return report


def _note(plan: NestedPlan, figures: Mapping[str, float], twin: int | None) -> str:
    lines = [f"- {name}: {value:.4f}" for name, value in figures.items()]
    reused = [f"Same plan as trial {twin}, whose figures it takes."] if twin is not None else []
    runs = [f"- from step {start}: layers {', '.join(map(str, layers))}" for start, layers in plan.segments()]
    return "\n".join(["**Figures**", "", *lines, "", *reused, "", "**Plan**", "", *runs])
