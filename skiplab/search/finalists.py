"""From studies and profile to the settings of a comparison, and to schedule files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.study import Study

from skiplab.comparison.cases import Case, expand
from skiplab.comparison.prepare import Prepared
from skiplab.methods.recipes import qualified_name
from skiplab.methods.skipdecode import SkipDecode
from skiplab.schedules.nested_plan import NestedPlan
from skiplab.schedules.schedule_file import NamedPlan
from skiplab.search.pareto import Scored, Sense, best_at
from skiplab.search.prompt_space import prompt_of
from skiplab.search.space import training_of
from skiplab.search.spec import SearchSpec
from skiplab.search.study import finished
from skiplab.search.trials import FIGURES, STEPS


@dataclass(frozen=True)
class Finalist:
    """A plan for the comparison.

    Attributes:
        series: how it was found: `searched`, a baseline's sampler or `profile`.
        speedup: the layer speedup that it was chosen for; None without one.
        training: SkipDecode's keywords for its fine-tuning, except the schedule.
    """

    series: str
    named: NamedPlan
    speedup: float | None
    training: Mapping[str, Any] = field(default_factory=dict)


def scored(study: Study, spec: SearchSpec) -> list[Scored]:
    """The finished trials of a study whose constraints hold, in their order."""
    return [
        Scored(
            trial.number, trial.user_attrs[FIGURES][spec.quality or spec.speed], trial.user_attrs[FIGURES][spec.speed]
        )
        for trial in finished(study)
    ]


def named_trial(study: Study, number: int, label: str) -> NamedPlan:
    """A trial's plan with its origin."""
    trial = study.trials[number]
    figures = trial.user_attrs[FIGURES]
    return NamedPlan(
        name=f"{label} #{number}",
        plan=NestedPlan(tuple(trial.user_attrs[STEPS])),
        layer_speedup=figures["layer_speedup"],
        prompt=prompt_of(trial.params),
        origin={"study": study.study_name, "trial": number, "params": trial.params, "figures": figures},
    )


def of_study(study: Study, spec: SearchSpec, label: str, speedups: Sequence[float], sense: Sense) -> list[Finalist]:
    """The best trial at each speedup; of one objective the best trial alone.

    Args:
        sense: of the quality.
    """
    points = scored(study, spec)
    if len(spec.objectives) == 1 and points:
        return [_finalist(study, min(trial.number for trial in study.best_trials), label, None)]
    chosen = [(speedup, best_at(points, sense, speedup)) for speedup in speedups]
    return [_finalist(study, best.number, label, speedup) for speedup, best in chosen if best is not None]


def _finalist(study: Study, number: int, label: str, speedup: float | None) -> Finalist:
    name = label if speedup is None else f"{label} {speedup:g}x"
    return Finalist(label, named_trial(study, number, name), speedup, training_of(study.trials[number].params))


def cases_of(prepared: Prepared, finalists: Sequence[Finalist], calibrated: Sequence[Finalist]) -> list[Case]:
    """Settings that fine-tune and decode under the finalists' plans.

    Args:
        calibrated: those among which the fastest certified one is a setting too.
    """
    target = qualified_name(SkipDecode)
    nodes: dict[str, dict[str, Any]] = {
        one.named.name: {
            "name": "skipdecode", "_target_": target, "speedup": one.speedup,
            "schedule": one.named.plain(origin=False), **one.training,
        }
        for one in finalists
    }  # fmt: skip
    ladder = sorted((one.named for one in calibrated), key=lambda named: named.layer_speedup or 0.0)
    # Deduplicate equal plans.
    hypotheses = [named.plain(origin=False) for named in {named.plan: named for named in ladder}.values()]
    # Hypotheses differ in their schedule alone.
    if prepared.calibration.delta and len(hypotheses) > 1 and not any(one.training for one in calibrated):
        nodes["calibrated"] = {"name": "skipdecode", "_target_": target, "calibrate": {"schedule": hypotheses}}
    cases = expand(nodes, prepared.config.seeds, prepared.probe(), prepared.calibration.delta)
    series = {one.named.name: one.series for one in finalists}
    # A calibrated case has many plans, and a series of its own.
    return [case if case.delta is not None else replace(case, family=series[_plan_name(case)]) for case in cases]


def _plan_name(case: Case) -> str:
    """The name of the plan that a finalist's case was given."""
    return case.candidates[0].params["schedule"]["name"]
