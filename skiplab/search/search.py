"""One search under way: studies, layers' importances, then the comparison of finalists."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

from optuna.study import Study

from skiplab.comparison.cases import Case
from skiplab.comparison.comparison import Comparison
from skiplab.comparison.metrics import figures_of
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.prepare import ConfigurationError, Prepared, configuring
from skiplab.comparison.session import Session
from skiplab.comparison.supplement import Supplement
from skiplab.schedules.schedule_file import NamedPlan
from skiplab.schedules.schedule_solver import solve_schedule
from skiplab.search.finalists import Finalist, cases_of, of_study, scored
from skiplab.search.findings import Findings, publish_study
from skiplab.search.judge import Judge
from skiplab.search.layer_importance import Plans, solve_in_stages
from skiplab.search.space import params_of
from skiplab.search.spec import SearchSpec
from skiplab.search.workers import StudyRunner, study_of
from skiplab.utils.locks import exclusive


def checked_spec(prepared: Prepared) -> SearchSpec:
    """The configuration's search.

    Raises:
        ConfigurationError: the search is invalid; the message says why.
    """
    with configuring():
        if prepared.config.decode_dtype is not None:
            raise ValueError(
                f"a search evaluates schedules in the weights' own number format, got decode_dtype="
                f"{prepared.config.decode_dtype}; search with null, and compare the schedules found in another format"
            )
        spec: SearchSpec = prepared.config.section("search")
        measured = [figure.name for figure in figures_of(prepared.metrics)]
        spec.check(measured, prepared.probe().backbone.num_layers, prepared.calibration.delta)
        spec.space.horizons(prepared.probe().lengths)
        if spec.times and not prepared.config.benchmark.batch_sizes:
            raise ValueError("decode_speedup is measured at the largest of benchmark.batch_sizes, which is empty")
    return spec


def studies_of(prepared: Prepared, spec: SearchSpec) -> dict[str, Study]:
    """The search's studies by name.

    Raises:
        ConfigurationError: the storage cannot be used, or holds another search of one of the names.
    """
    with configuring():
        return {name: study_of(prepared, spec, name) for name in spec.samplers}


@final
class Search:
    """One search under way. Its trials are in the storage, all else in the run folder."""

    def __init__(self, session: Session, spec: SearchSpec, studies: Mapping[str, Study]) -> None:
        self._session = session
        self._prepared = session.prepared
        self._config = session.prepared.config
        self._folder = session.folder
        self._spec = spec
        self._studies = studies
        self._models = ModelStore(session)
        self._judge = Judge(session, self._models, spec)
        self._runner = StudyRunner(session, spec, self._judge)

    def run(self) -> bool:
        """Studies, profile, comparison; True if nothing failed."""
        with self._session.run("parent", self._session.name, nested=False):
            self._session.screen.print("training the base and the once-for-all model")
            self._judge.prepare()
            self._warm_starts(next(iter(self._studies.values())))
            for name in self._studies:
                self._session.screen.print(f"study {name}: {self._spec.trials} trials by {self._spec.samplers[name]}")
                with self._session.run(f"study {name}", f"study {name}") as run_id:
                    self._runner.run(name, run_id, self._config.workers or 1)
            # One of several searching processes continues at a time.
            with exclusive(self._folder.path / "comparison.lock", "the comparison of finalists"):
                findings = self._findings(self._profile())
                for name, study in self._studies.items():
                    with self._session.run(f"study {name}", f"study {name}"):
                        publish_study(self._session.tracker, study, findings, self._folder.path)
        with exclusive(self._folder.path / "comparison.lock", "the comparison of finalists"):
            prepared = replace(self._prepared, cases=[*self._prepared.cases, *self._cases(findings)])
            supplement = Supplement("search", lambda records: findings.for_report(records, prepared.cases))
            comparison = Comparison(replace(self._session, prepared=prepared), supplement)
            complete = comparison.run()
            with self._session.run("parent", self._session.name, nested=False):
                findings.write_schedules(self._session, comparison.records)
        return complete

    def _warm_starts(self, study: Study) -> None:
        """Queue the solver's schedules for the speedups in a study that is new."""
        if study.trials:
            return
        for decay in self._spec.warm_starts:
            for speedup in self._config.speedups:
                try:
                    solved = solve_schedule(
                        speedup, num_layers=self._judge.num_layers, lengths=self._judge.lengths, decay=decay
                    )
                except ValueError:
                    # The decay cannot reach this speedup.
                    continue
                whole = {"prompt": "whole"} if "whole" in self._spec.space.prompt.get("form", ()) else {}
                study.enqueue_trial(params_of(solved, "skip") | whole, {"warm_start": f"{speedup:g}x {decay}"})

    def _profile(self) -> Plans:
        """Importances of layers and the plans made of them, once per run folder."""
        if (stored := self._folder.load("profile")) is not None:
            return Plans.from_plain(stored)
        self._session.screen.print("measuring the importance of layers")
        found = solve_in_stages(
            self._judge.profile_loss,
            num_layers=self._judge.num_layers,
            reach=self._judge.reach,
            speedups=self._config.speedups,
            parts=self._spec.profile_parts,
            stages=self._spec.profile_stages,
        )
        self._folder.save("profile", found.plain())
        return found

    def _findings(self, by_profile: Plans) -> Findings:
        sense = self._spec.sense
        own, *others = self._studies.items()
        found = of_study(own[1], self._spec, "searched", self._config.speedups, sense)
        rest = [
            one
            for name, study in others
            for one in of_study(study, self._spec, self._spec.samplers[name], self._config.speedups, sense)
        ]
        made = [
            Finalist(
                "profile",
                NamedPlan(
                    name=f"profile {speedup:g}x", plan=plan, layer_speedup=plan.layer_speedup(self._judge.reach),
                    origin={"profile": "dynamic programming over measured importances, then exchanges of layers"},
                ),
                speedup,
            )
            for speedup, plan in by_profile.exchanged.items()
        ]  # fmt: skip
        return Findings(
            spec=self._spec,
            judge=self._judge,
            studies=self._studies,
            points={name: scored(study, self._spec) for name, study in self._studies.items()},
            sense=sense,
            by_profile=by_profile,
            found=found,
            others=[*rest, *made],
            folder=self._folder,
        )

    def _cases(self, findings: Findings) -> list[Case]:
        finalists = [*findings.found, *findings.others]
        self._guard(finalists)
        return cases_of(self._prepared, finalists, findings.found)

    def _guard(self, finalists: Sequence[Finalist]) -> None:
        """Refuse to mix the finished settings of this folder with those of another study of the same name.

        Raises:
            ConfigurationError: a finalist's name stands for another plan here.
        """
        known = self._folder.load("finalists") or {}
        present = {
            one.named.name: [*one.named.plan.steps_L, *([] if one.named.prompt is None else [dict(one.named.prompt)])]
            for one in finalists
        }
        for name, steps in present.items():
            if known.get(name, steps) != steps:
                raise ConfigurationError(
                    f"{self._folder.path} holds results of another study, in which {name!r} is another plan; choose "
                    "another folder with hydra.run.dir=DIR"
                )
        self._folder.save("finalists", known | present)
