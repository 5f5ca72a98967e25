"""Outputs of a search: plots, tables, schedule files, notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import optuna
from optuna.study import Study

from skiplab.comparison.cases import Case
from skiplab.comparison.session import Session
from skiplab.reporting.plot_style import Plot
from skiplab.reporting.record import Record, Setting
from skiplab.reporting.results import Row
from skiplab.reporting.tables import Cell, Table
from skiplab.reporting.tracker import Tracker
from skiplab.schedules.nested_plan import NestedPlan
from skiplab.schedules.prompt_spec import PromptSpec
from skiplab.schedules.schedule_file import NamedPlan
from skiplab.search import plots
from skiplab.search.finalists import Finalist
from skiplab.search.judge import Judge
from skiplab.search.layer_importance import Plans
from skiplab.search.pareto import Scored, Sense, fastest_with
from skiplab.search.rank_correlation import fidelity_table
from skiplab.search.spec import SearchSpec
from skiplab.search.trials import DUPLICATE, save_note
from skiplab.utils.run_folder import RunFolder

if TYPE_CHECKING:
    pass


@final
@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found before fine-tuning.

    Attributes:
        studies: by name, the search's own first.
        points: their finished trials.
        found: the search's own finalists.
        others: those of the baselines and of the profile.
    """

    spec: SearchSpec
    judge: Judge
    studies: Mapping[str, Study]
    points: Mapping[str, Sequence[Scored]]
    sense: Sense
    by_profile: Plans
    found: Sequence[Finalist]
    others: Sequence[Finalist]
    folder: RunFolder

    def for_report(self, records: Sequence[Record], cases: Sequence[Case]) -> tuple[list[Table], dict[str, Plot]]:
        """Tables and plots that go with the comparison's."""
        tables = [self._plans(), self._fidelities(records, cases)]
        return [*tables, self._seconds()], {**self._study_plots(), "layer_importance": self._profile_plot()}

    def write_schedules(self, session: Session, records: Sequence[Record]) -> None:
        """A file per finalist in `schedules/`, and the chosen one as `schedule.yaml`; all to the MLflow run."""
        for one in (*self.found, *self.others):
            path = (
                session.folder.path / "schedules" / f"{one.named.name.replace(' #', '-trial-').replace(' ', '-')}.yaml"
            )
            one.named.write(path)
            session.tracker.log_file(path, "schedules")
        chosen = self._chosen(records)
        if chosen is None:
            session.screen.print("no schedule meets search.select; full depth remains")
            return
        path = session.folder.path / "schedule.yaml"
        chosen.write(path)
        session.tracker.log_file(path)
        asked = ", ".join(f"{key} {value:g}" for key, value in self.spec.select.items())
        session.screen.print(f"chosen by {asked}: {chosen.name}, {chosen.plan}")
        session.screen.print(f"schedule: {path}")

    def _chosen(self, records: Sequence[Record]) -> NamedPlan | None:
        """The schedule that `search.select` picks among the search's own finalists."""
        by_name = {one.named.name: one.named for one in self.found}
        ((rule, value),) = self.spec.select.items()
        if rule == "guarantee":
            found = [record.figures for record in records if record.figures.get("delta") == value]
            names = [by_name[row["calibrated"]] for row in found if row.get("calibrated") in by_name]
            return names[0] if names else None
        if len(self.found) == 1:
            return self.found[0].named
        points = [
            Scored(place, one.named.origin["figures"][self.spec.quality or self.spec.speed],
                   one.named.origin["figures"][self.spec.speed])
            for place, one in enumerate(self.found)
        ]  # fmt: skip
        if rule == "quality":
            best = fastest_with(points, self.sense, value)
            return None if best is None else self.found[best.number].named
        fast = [one for one in self.found if one.speedup is not None and one.speedup >= value]
        return fast[0].named if fast else None

    def _plans(self) -> Table:
        """All finalists, and what the dynamic programme gave before exchanges of layers."""
        loss = self.judge.loss_from
        head = ["setting", "layers, from generation step on", "layer speedup", "base's loss", "once-for-all's loss"]
        table = Table("Plans, by their figures on the validation split before fine-tuning", head)
        plans = [(one.named.name, one.named.plan, one.named.prompt) for one in (*self.found, *self.others)]
        solved = self.by_profile.solved
        plans += [(f"profile {speedup:g}x, no exchange", plan, None) for speedup, plan in solved.items()]
        for name, plan, prompt in plans:
            figures = [f"{plan.layer_speedup(self.judge.reach):.2f}x"]
            figures += [f"{loss(weights, plan, prompt):.4f}" for weights in ("base", "once_for_all")]
            layers = str(plan) if prompt is None else f"{PromptSpec.of(prompt)}; {plan}"
            table.lines.append([Cell(name), Cell(layers), *map(Cell, figures)])
        return table

    def _fidelities(self, records: Sequence[Record], cases: Sequence[Case]) -> Table:
        """Cheap losses of all different fine-tuned plans against their figures after fine-tuning, mean over seeds; only
        plans with whole prompts."""
        plans: dict[Setting, tuple[NestedPlan, float | None]] = {}
        for case in cases:
            setting = case.entry.over_seeds
            if case.entry.method == "skipdecode" and case.delta is None and setting not in plans:
                policy = case.candidates[0].build(self.judge.setup()).exit_policy([])
                if not policy.prompt.is_whole:
                    continue
                plan = NestedPlan.of(policy.plan, self.judge.num_layers, self.judge.steps)
                if all(plan != other for other, _ in plans.values()):
                    plans[setting] = (plan, case.candidates[0].params.get("speedup"))
        rows: dict[Setting, list[Row]] = {}
        for record in records:
            rows.setdefault(record.entry.over_seeds, []).append(record.figures)
        compared = [setting for setting in plans if setting in rows]

        def mean(name: str, sign: float) -> list[float]:
            return [sign * sum(row[name] for row in rows[setting]) / len(rows[setting]) for setting in compared]

        example = rows[compared[0]][0] if compared else {}
        full = {"perplexity": mean("perplexity", 1.0)} if "perplexity" in example else {}
        for name in ("slot_accuracy", "rouge_l", "bleu"):
            if name in example:
                full[name] = mean(name, -1.0)
        cheap = {
            name.replace("_", "-"): [self.judge.loss_from(name, plans[setting][0]) for setting in compared]
            for name in ("base", "once_for_all")
        }
        return fidelity_table(cheap, full, [plans[setting][1] for setting in compared])

    def _study_plots(self) -> dict[str, Plot]:
        if len(self.spec.objectives) == 1 or not any(self.points.values()):
            return {}
        marked = {
            one.named.name: Scored(-1, self.judge.figures(one.named.plan)[quality], one.named.layer_speedup or 0.0)
            for one in self.others
            if (quality := self.spec.quality) is not None and "profile" in one.named.origin
        }
        names = (self.spec.quality or "", self.spec.speed)
        return {
            "search_front": Plot(
                "Trials and fronts of the search",
                "Dots are trials of the first study; a line is the front of a study's best trials.",
                plots.front_figure(self.studies, self.points, self.sense, names, marked),
            ),
            "hypervolume_by_trial": Plot(
                "Hypervolume by trial",
                "How much of the plane the trials so far dominate; a line that is flat has stopped to learn.",
                plots.hypervolume_figure(self.studies, self.reference()),
            ),
        }

    def reference(self) -> dict[str, float]:
        """Reference point of the hypervolume, by objective; for a search with two objectives."""
        found = plots.reference_of(self.points, self.sense)
        return {self.spec.quality or "": found.quality, self.spec.speed: found.speedup}

    def _profile_plot(self) -> Plot:
        """The first profile, about full depth, and the last but those between."""
        first, *later = self.by_profile.profiles
        shown = {"full depth": first}
        if later:
            last = later[-1]
            shown[f"a plan of {last.about.layer_speedup(self.judge.reach):.1f}x"] = last
        sentence = "The change of the loss when a layer is left out from a step on: dark layers can be skipped."
        return Plot("Importance of layers", sentence, plots.profile_figure(shown))

    def _seconds(self) -> Table:
        """Seconds of trials by kind of work, summed over workers."""
        table = Table("Seconds of trials", ["study", "judging", "Optuna", "MLflow", "notes and plots", "overhead"])
        paths = sorted((self.folder.path / "seconds").glob("*.json"))
        workers: list[dict[str, Any]] = [self.folder.load(f"seconds/{path.stem}") or {} for path in paths]
        for name in self.points:
            total: dict[str, float] = {}
            for worker in workers:
                for part, seconds in worker["seconds"].items() if worker["study"] == name else ():
                    total[part] = total.get(part, 0.0) + seconds
            if total:
                spent = [total.get(part, 0.0) for part in ("judging", "optuna", "mlflow", "dashboard")]
                cells = [Cell(f"{seconds:.1f}") for seconds in spent]
                share = sum(spent[1:]) / sum(spent) if sum(spent) else 0.0
                table.lines.append([Cell(name), *cells, Cell(f"{share:.0%}")])
        return table


def publish_study(tracker: Tracker, study: Study, findings: Findings, folder: Path) -> None:
    """Front, hypervolume and importances of a study to the active MLflow run, and a note to the study."""
    points = findings.points[study.study_name]
    tracker.log_params({"sampler": findings.spec.samplers[study.study_name], **findings.spec.identity["space"]})
    duplicates = sum(DUPLICATE in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    counts = {state.name.lower(): 0 for state in optuna.trial.TrialState}
    for trial in study.get_trials(deepcopy=False):
        counts[trial.state.name.lower()] += 1
    tracker.log_figures({f"trials_{state}": float(count) for state, count in counts.items()} | {
        "trials_duplicate": float(duplicates)
    })  # fmt: skip
    if len(findings.spec.objectives) == 2 and points:
        tracker.log_series("hypervolume", plots.hypervolumes(study, findings.reference()), first_step=1)
    figures = {}
    objectives = list(findings.spec.objectives)
    if importances := parameter_importances(study, objectives):
        places = {name: objectives.index(name) for name in importances}
        figures["parameter_importance"] = plots.importance_figure(study, places)
        for objective, found in importances.items():
            tracker.log_figures({f"importance/{objective}/{name}": value for name, value in found.items()})
    for name, figure in figures.items():
        path = folder / "plots" / f"{name}_{study.study_name}.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=150)
        tracker.log_file(path, "plots")
    lines = [f"- {state}: {count}" for state, count in counts.items() if count]
    best = [f"- {one.named.name}: {one.named.plan}" for one in findings.found]
    text = "\n".join(
        [
            f"{len(points)} feasible trials, {duplicates} of them repeat a plan",
            "",
            *lines,
            "",
            "Finalists of the search:",
            "",
            *best,
        ]
    )
    save_note(study, text)
    tracker.set_note(text)


def parameter_importances(study: Study, objectives: Sequence[str]) -> dict[str, dict[str, float]]:
    """Importances of the parameters that all finished trials have, by objective; empty if there are too few trials."""
    found: dict[str, dict[str, float]] = {}
    for place, objective in enumerate(objectives):
        try:
            found[objective] = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=lambda trial, place=place: trial.values[place],
            )
        except (RuntimeError, ValueError):
            continue
    return found
