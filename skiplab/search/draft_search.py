"""One run of `experiment=search_draft`: an Optuna study of drafters by their measured decode speed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, final

from optuna.study import Study
from optuna.trial import Trial, TrialState

from skiplab.benchmarking.timing import Timing, Workload, engine_system, interleave
from skiplab.comparison.cases import Case
from skiplab.comparison.config_drafts import Drafts
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.session import Session
from skiplab.comparison.timed_systems import spread_workload
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch, collate
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.packed_linear import prepack
from skiplab.engine.policy import ExitPolicy, FullDepth, Planned
from skiplab.engine.speculative import Speculative
from skiplab.evaluation.generate import generate
from skiplab.methods.base import Optimization, Setup
from skiplab.methods.speculative import SelfSpeculative
from skiplab.reporting.results import Row
from skiplab.schedules.exit_schedule import LayerPlan, terminate_plan
from skiplab.search.draft_agreement import DraftAgreement
from skiplab.search.draft_cost import DraftCosts, Measured, ModelErrors, evaluated
from skiplab.search.draft_space import draft_layers, hyperparameters, suggest

FIGURES = "figures"


@final
class DraftSearch:
    """Times drafters one after another, each in turns with full depth on the same weights.

    Trials are in Optuna's storage, with all their figures; a resumed search continues after them.

    Args:
        case: of a drafting method, for its weights and the tokens that may be drafted.
    """

    def __init__(self, session: Session, options: Drafts, study: Study, case: Case) -> None:
        self._session = session
        self._prepared = session.prepared
        self._options = options
        self._study = study
        self._case = case
        self._models = ModelStore(session)

    def run(self) -> tuple[list[Row], DraftCosts | None, ModelErrors | None]:
        """Rows of all trials, fastest first, and the cost model with its errors; None of it with too few trials."""
        while (left := self._options.trials - len(self._finished())) > 0:
            self._study.optimize(self._measure, n_trials=left)
        judged = evaluated(self._without_threshold())
        costs, errors = judged or (None, None)
        rows = [self._row(trial.params, trial.user_attrs[FIGURES], costs) for trial in self._distinct()]
        return sorted(rows, key=lambda row: -row["decode_speedup"]), costs, errors

    def _measure(self, trial: Trial) -> float:
        params = suggest(trial, self._options)
        known = next((one for one in self._finished() if self._tried(one.params) == self._tried(params)), None)
        figures = dict(known.user_attrs[FIGURES]) if known else self._figures(params)
        trial.set_user_attr(FIGURES, figures)
        setting, count = self._drafting(params).setting, self._options.trials
        self._session.screen.print(f"trial {trial.number + 1} of {count}: {setting}, {figures['decode_speedup']:.2f}x")
        return figures["decode_speedup"]

    def _figures(self, params: dict[str, Any]) -> Row:
        drafted, full = self._timed(self._drafting(params).exit_policy(self._models.selection_batches))
        drafter = Planned([terminate_plan(self._backbone.num_layers), self._layers(params)])
        return {**drafted.row(full), "draft_agreement": self._agreement.share(drafter, params["length"])}

    def _timed(self, policy: ExitPolicy) -> tuple[Timing, Timing]:
        policies: Mapping[str, ExitPolicy] = {"full": FullDepth(self._backbone.num_layers), "drafts": policy}
        config, workload = self._prepared.config, self._workload
        timings, errors = interleave(
            {
                name: engine_system(self._packed, one, workload, options=config.generation)
                for name, one in policies.items()
            },
            workload,
            rounds=config.benchmark.timing,
            device=self._prepared.device,
        )
        for error in errors.values():
            raise error
        return timings["drafts"], timings["full"]

    @cached_property
    def _agreement(self) -> DraftAgreement:
        policy = self._module.exit_policy(self._models.selection_batches)
        assert isinstance(policy, Speculative)
        options = self._prepared.config.generation
        return DraftAgreement(self._backbone, self._full_outputs(options), policy.drafting, options)

    def _full_outputs(self, options: GenerationOptions) -> list[Batch]:
        """The full model's outputs for the selection prompts, which are what drafts have to guess."""
        data, size = self._prepared.data, self._prepared.config.decode_batch_size
        items = data.items("selection")
        full = generate(
            self._backbone, FullDepth(self._backbone.num_layers), data, items, batch_size=size,
            options=replace(options, num_return_sequences=1),
        )  # fmt: skip
        prompts, starts = [item.prompt_ids for item in items], range(0, len(items), size)
        batches = [
            collate(prompts[first : first + size], full.tokens[first : first + size], data.pad_id) for first in starts
        ]
        return [Batch(*(tensor.to(self._backbone.device) for tensor in batch)) for batch in batches]

    @cached_property
    def _module(self) -> SelfSpeculative:
        module = self._models.module(self._case.candidates[0], self._case.entry.seed, None)
        assert isinstance(module, SelfSpeculative)
        return module

    @property
    def _backbone(self) -> Backbone:
        return self._module.backbone

    @cached_property
    def _packed(self) -> Backbone:
        return prepack(self._backbone, rows=self._options.batch_size)

    @cached_property
    def _workload(self) -> Workload:
        data = self._prepared.data
        return spread_workload(
            data.items("selection"), self._models.lengths, batch_size=self._options.batch_size,
            options=self._prepared.config.benchmark, pad_id=data.pad_id,
        )  # fmt: skip

    def _layers(self, params: Mapping[str, Any]) -> LayerPlan:
        return draft_layers(params["kind"], params["depth"], self._backbone.num_layers)

    def _tried(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """What is timed: kinds can give the same layers."""
        return self._layers(params), params["length"], params["threshold"]

    def _drafting(self, params: dict[str, Any]) -> SelfSpeculative:
        setup = Setup(self._backbone, self._models.lengths, Optimization(learning_rate=1.0))
        vocabulary = self._module.drafting.vocabulary
        return SelfSpeculative(setup, **hyperparameters(params, self._backbone.num_layers, vocabulary))

    def _row(self, params: dict[str, Any], figures: Row, costs: DraftCosts | None) -> Row:
        setting, seed = self._drafting(params).setting, self._prepared.config.seeds[0]
        row: Row = {"method": "speculative", "setting": setting, "seed": seed}
        if costs is not None and params["threshold"] is None:
            row["predicted_speedup"] = costs.speedup(figures["draft_agreement"], params["length"], params["depth"])
        return {**row, **figures}

    def _finished(self) -> list[Any]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def _distinct(self) -> list[Any]:
        """Finished trials without repetitions."""
        found = {self._tried(trial.params): trial for trial in reversed(self._finished())}
        return list(reversed(found.values()))

    def _without_threshold(self) -> Sequence[Measured]:
        return [
            Measured(
                length=trial.params["length"],
                depth=trial.params["depth"],
                agreement=figures["draft_agreement"],
                tokens=figures["tokens_per_verification"],
                speedup=figures["decode_speedup"],
            )
            for trial in self._distinct()
            if trial.params["threshold"] is None and (figures := trial.user_attrs[FIGURES])
        ]
