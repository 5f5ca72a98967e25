"""Self-speculative decoding (arXiv 2309.08168, 2404.16710) with any plan as the drafter, as a method of a comparison.

The output is that of the same weights at full depth. Without a training these are the base's, so the output is the full
model's; with one, the base teaches full depth and the drafter together.

Shapes: B rows, G generated columns, D hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.engine.draft_forward import drafted_states, full_pass
from skiplab.engine.draft_length import Drafting
from skiplab.engine.parallel_forward import planned_states
from skiplab.engine.policy import ExitPolicy, FullDepth, Planned
from skiplab.engine.speculative import Speculative
from skiplab.methods.base import PlannedModule, Setup
from skiplab.methods.given_plan import GivenPlan, budget_of
from skiplab.methods.lm_loss import Taught, lm_loss
from skiplab.methods.once_for_all import drawn_policy
from skiplab.schedules.exit_schedule import PlanKind, terminate_plan
from skiplab.schedules.schedule_solver import ScheduleSpec

Training = Literal["none", "drafter", "any_plan"]
# Minimum depth of random plans.
_LOWEST = 2
# Drafts per round in training, whatever their number in decoding, so that settings share a training.
_ROUND = 4


@final
class SelfSpeculative(PlannedModule):
    """Drafts with some layers and verifies with all; further keywords are those of `ScheduleSpec`.

    Args:
        kind: which layers draft at a given depth.
        layers: the layers that draft at every step, in place of `kind` and of the keywords of `ScheduleSpec`.
        schedule: a schedule file, or what one holds, in place of these. With it or `layers`, keywords of `ScheduleSpec`
            must be at their defaults; `speedup` is ignored.
        draft: keywords of `Drafting`.
        training: `none` takes the base unchanged. The others add up two losses: the divergence of full depth from the
            base's next-token distributions, which it is to keep, and that of drafts in rounds, with the cross entropy
            of the references. `drafter` trains the layers that draft, under their plan, `any_plan` all weights, under a
            new random plan for each batch, so that one model serves all drafters.

    Attributes:
        keywords_of: the dataclass whose fields are the further keywords, by which a configuration is checked.
        drafting: `draft` as an object.
    """

    keywords_of: ClassVar[type] = ScheduleSpec

    def __init__(
        self,
        setup: Setup,
        *,
        kind: PlanKind = "skip",
        layers: Sequence[int] | None = None,
        schedule: str | Mapping[str, Any] | None = None,
        draft: Mapping[str, Any] | None = None,
        training: Training = "none",
        **options: Any,
    ) -> None:
        super().__init__(setup)
        drafting = Drafting(**(draft or {}))
        drafting.check_fits(setup.backbone.max_positions)
        self._drafter, self.drafting = _drafter(setup, kind, layers, schedule, options), drafting
        self.policy = Speculative(self._drafter.policy, setup.backbone.num_layers, drafting)
        self.trains = training != "none"
        self._training = training

    @property
    def setting(self) -> str:
        trained = {"none": "", "drafter": " trained", "any_plan": " trained for any plan"}[self._training]
        return f"{self._drafter.name} {self.drafting}{trained}"

    @property
    def target_speedup(self) -> None:
        return None

    def shared_recipe(self) -> Mapping[str, Any]:
        """Draft lengths share a training; so do drafters, if any plan is trained."""
        shared = {"loss": f"base_to_full_references_to_{self._training}", "round": _ROUND}
        if self._training == "any_plan":
            return shared
        return {**shared, "trained": "layers of the drafter", **self._drafter.plain}

    def setup(self, stage: str) -> None:
        """Freeze all but a drafter's layers, so that full depth keeps the rest; any plan may need all weights."""
        if stage == "fit" and self._training == "drafter":
            self.backbone.requires_grad_(requires_grad=False)
            for layer in self._drafter.policy.plan(1):
                self.backbone.layers[layer].requires_grad_()

    def loss(self, batch: Batch) -> Tensor:
        backbone, targets = self.backbone, batch.target_BG
        full = full_pass(backbone, batch)
        with torch.no_grad():
            base_BGD = planned_states(self._base, FullDepth(self._base.num_layers), batch)
        loss = lm_loss(backbone, full.states_BGD, targets, Taught(self._base, base_BGD, alone=True))
        if not batch.decode_steps:
            # The prompt's pass gives the only tokens.
            return loss
        drafted_BND = drafted_states(backbone, self._trained_plan(batch), full, length=_ROUND, first=self._first())
        return loss + lm_loss(backbone, drafted_BND, targets[:, 1:], Taught(self._base, base_BGD[:, 1:]))

    @property
    def _base(self) -> Backbone:
        if self.teacher is None:
            raise ValueError("training of drafters needs the base, whose output is to be kept: give Setup a teacher")
        return self.teacher

    def _first(self) -> int:
        """Where the first round begins: at random in training."""
        return int(torch.randint(_ROUND, ())) if self.training else 0

    def _trained_plan(self, batch: Batch) -> ExitPolicy:
        if self._training == "drafter":
            return self._drafter.policy
        return drawn_policy(self.backbone.num_layers, batch.decode_steps, _LOWEST)


def _drafter(
    setup: Setup,
    kind: PlanKind,
    layers: Sequence[int] | None,
    schedule: str | Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> GivenPlan:
    """The plan that drafts."""
    if layers is not None:
        if schedule is not None:
            raise ValueError("layers and schedule both give the plan that drafts; leave one of them at null")
        budget_of(options, "layers")
        return _fixed(setup.backbone.num_layers, layers)
    if schedule is None:
        solved = GivenPlan.solved(setup, kind, options)
        return replace(solved, name=solved.name if kind == "skip" else f"{solved.name} {kind}")
    given = GivenPlan.read(setup, schedule, options)
    if given.prompt is not None:
        raise ValueError(
            f"schedule {given.name!r} has a prompt plan and cannot draft, because drafts are verified by the full "
            "model, which runs every layer on the whole prompt; remove prompt from the schedule file"
        )
    return given


def _fixed(num_layers: int, layers: Sequence[int]) -> GivenPlan:
    """The same layers at every step, after a prompt at full depth."""
    plan = tuple(layers)
    if sorted(set(plan) & set(range(num_layers))) != list(plan) or not plan:
        raise ValueError(f"layers must be ascending layers of 0 to {num_layers - 1}, got {list(plan)}")
    policy = Planned([terminate_plan(num_layers), plan])
    return GivenPlan(policy, {"layers": list(plan)}, f"layers {_ranges(plan)}", None)


def _ranges(layers: Sequence[int]) -> str:
    """Such as `0-2,5`."""
    found: list[list[int]] = []
    for layer in layers:
        if found and found[-1][-1] == layer - 1:
            found[-1] = [found[-1][0], layer]
        else:
            found.append([layer])
    return ",".join("-".join(map(str, part)) for part in found)
