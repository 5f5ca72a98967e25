"""Evaluation of a schedule at the search's fidelity."""

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, final

from skiplab.benchmarking.timing import engine_system
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.session import Session
from skiplab.comparison.timed_systems import spread_workload, time_systems
from skiplab.data.module import Item
from skiplab.data.pairs import Pair
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import PromptGroup, group_by_prompt
from skiplab.engine.packed_linear import prepack
from skiplab.engine.policy import ExitPolicy, FullDepth, Planned, PromptPlanned
from skiplab.evaluation.bertscore import BERTScore
from skiplab.evaluation.generate import Generation, generate, perplexity, quality
from skiplab.evaluation.metric import Metric
from skiplab.evaluation.teacher_forced import Continuations
from skiplab.methods.base import Setup
from skiplab.methods.once_for_all import OnceForAll
from skiplab.schedules.exit_schedule import decode_steps
from skiplab.schedules.nested_plan import NestedPlan
from skiplab.schedules.prompt_spec import PromptSpec
from skiplab.search.short_tuning import Report, tune
from skiplab.search.spec import SearchSpec

_BATCH = 64


@final
class Judge:
    """Judges plans on the selection items. Results are cached by plan and training options."""

    def __init__(self, session: Session, models: ModelStore, spec: SearchSpec) -> None:
        self._session = session
        self._prepared = session.prepared
        self._models = models
        self._spec = spec
        self._known: dict[tuple[NestedPlan, str], dict[str, float]] = {}

    @property
    def lengths(self) -> list[int]:
        return self._models.lengths

    @cached_property
    def reach(self) -> list[int]:
        return decode_steps(self.lengths)

    @property
    def num_layers(self) -> int:
        return self._models.base.num_layers

    @property
    def steps(self) -> int:
        """The last generation step that an output can have."""
        return self._prepared.data.max_new_tokens - 1

    def setup(self) -> Setup:
        """What modules of the comparison are built from."""
        return Setup(self._models.base, self.lengths, self._prepared.trainer.optimization)

    def prepare(self) -> None:
        """Do the work that all trials share, so that its time is not counted for one trial."""
        _ = self.reach
        if self._spec.fidelity != "fine_tune":
            _ = self._continuations

    def planned(self, plan: NestedPlan, training: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Figures that follow from a plan and the lengths of prompts and of the base's outputs.

        Args:
            training: SkipDecode's keywords beside the schedule.
        """
        depth = plan.mean_depth(self.reach)
        found = {"layer_speedup": self.num_layers / depth, "mean_depth": depth}
        if self._spec.space.prompt:
            prompt = self._policy(plan, training or {}).prompt
            found["prefill_layer_speedup"] = self.num_layers / prompt.mean_depth(self._prompt_lengths)
        return found

    def figures(
        self, plan: NestedPlan, training: Mapping[str, Any] | None = None, report: Report | None = None
    ) -> dict[str, float]:
        """All figures that the search needs.

        Args:
            training: SkipDecode's keywords beside the schedule: its prompt plan, options of a short fine-tuning.
            report: takes step and validation loss during a short fine-tuning, and may raise to end it.
        """
        key = (plan, json.dumps(training or {}, sort_keys=True))
        if key not in self._known:
            self._known[key] = self._judged(plan, training or {}, report)
        return self._known[key]

    def loss_from(self, weights: str, plan: NestedPlan, prompt: Mapping[str, Any] | None = None) -> float:
        """Loss of the selection items under a plan with the weights of `base` or `once_for_all`, without training.

        Args:
            prompt: keywords of `PromptSpec`; None runs every layer on whole prompts.
        """
        policy = self._policy(plan, {"prompt": prompt})
        if not policy.prompt.is_whole:
            return self._prompted_loss(self._weights(weights), policy)
        return (self._continuations if weights == self._spec.fidelity else self._other(weights)).loss(plan)

    @cached_property
    def profile_loss(self) -> Callable[[NestedPlan], float]:
        """Loss of the once-for-all model on the examples for the profile, drawn by the search's seed."""
        examples = self._prepared.data.selection_pairs
        pairs = random.Random(self._spec.seed).sample(examples, min(self._spec.profile_items, len(examples)))
        return Continuations(self._weights("once_for_all"), self._groups(pairs)).loss

    def _judged(self, plan: NestedPlan, training: Mapping[str, Any], report: Report | None) -> dict[str, float]:
        found = self.planned(plan, training)
        policy = self._policy(plan, training)
        if tuned := self._spec.fidelity == "fine_tune":
            report = report or (lambda step, loss: None)
            backbone = tune(self._prepared, self._models, self._spec, plan, training, report)
        else:
            backbone = self._weights(self._spec.fidelity)
        if not policy.prompt.is_whole:
            found["loss"] = self._prompted_loss(backbone, policy)
        elif tuned:
            found["loss"] = Continuations(backbone, self._groups(self._prepared.data.selection_pairs)).loss(plan)
        else:
            found["loss"] = self._continuations.loss(plan)
        if self._spec.decodes:
            outputs = self._generated(backbone, policy)
            row, _ = quality(outputs, self._items, self._full, self._metrics)
            found |= {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
        if self._spec.times:
            found["decode_speedup"] = self._decode_speedup(backbone, policy)
        return found

    def _prompted_loss(self, backbone: Backbone, policy: ExitPolicy) -> float:
        """Mean cross entropy of the selection items, whose prompts have to be read anew for each prompt plan."""
        mean = perplexity(backbone, policy, self._groups(self._prepared.data.selection_pairs))
        assert mean is not None
        return math.log(mean)

    def _policy(self, plan: NestedPlan, training: Mapping[str, Any]) -> ExitPolicy:
        decoding = Planned(plan.plans())
        spec = PromptSpec.of(training.get("prompt"))
        return decoding if spec is None else PromptPlanned(decoding, spec.plan(self.num_layers, decoding.plan(1)))

    def _decode_speedup(self, backbone: Backbone, policy: ExitPolicy) -> float:
        options = self._prepared.config.benchmark
        systems = {
            name: lambda workload, one=one: engine_system(prepack(backbone, rows=workload.batch_size), one, workload)
            for name, one in (("full", FullDepth(self.num_layers)), ("plan", policy))
        }
        workload = spread_workload(
            self._items, self.lengths, batch_size=max(options.batch_sizes), options=options,
            pad_id=self._prepared.data.pad_id,
        )  # fmt: skip
        found, errors = time_systems(
            systems, [workload], baseline="full", options=options, device=self._prepared.device, progress=iter
        )
        for error in errors.values():
            raise error
        return float(found["plan"][0].figures["decode_speedup"])

    def _generated(self, backbone: Backbone, policy: ExitPolicy) -> Generation:
        size = self._prepared.config.decode_batch_size
        return generate(backbone, policy, self._prepared.data, self._items, batch_size=size)

    @cached_property
    def _continuations(self) -> Continuations:
        return self._other(self._spec.fidelity)

    def _other(self, weights: str) -> Continuations:
        return Continuations(self._weights(weights), self._groups(self._prepared.data.selection_pairs))

    def _weights(self, name: str) -> Backbone:
        if name == "base":
            return self._models.base
        spec = self._models.spec(OnceForAll, speedup=1.0)
        return self._models.module(spec, self._prepared.config.seeds[0], None).backbone

    def _groups(self, pairs: Iterable[Pair]) -> list[PromptGroup]:
        found = group_by_prompt(pairs, self._prepared.data.pad_id, size=_BATCH)
        return [group.to(self._prepared.device) for group in found]

    @cached_property
    def _items(self) -> list[Item]:
        return self._prepared.data.items("selection")

    @cached_property
    def _prompt_lengths(self) -> list[int]:
        return [len(item.prompt_ids) for item in self._items]

    @cached_property
    def _metrics(self) -> list[Metric]:
        """All but BERTScore, whose encoder is slow, unless that is searched by."""
        wanted = {*self._spec.objectives, *self._spec.constraints}
        return [
            metric
            for metric in self._prepared.metrics
            if not isinstance(metric, BERTScore) or any(figure.name in wanted for figure in metric.figures)
        ]

    @cached_property
    def _full(self) -> Generation:
        backbone = self._models.base
        size = self._prepared.config.decode_batch_size
        return generate(backbone, FullDepth(self.num_layers), self._prepared.data, self._items, batch_size=size)
