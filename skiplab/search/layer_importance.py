"""Measured importance of each layer at each step, and plans solved from it.

The importance of layer `l` at a cut `c` is how much the loss grows when `l` runs no longer than the first `c` steps,
the other layers being as they are. Layers compensate for each other, so a plan that drops many of them is found in
stages: a little faster each time, with the importances measured anew about the plan of the stage before.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skiplab.schedules.nested_plan import NestedPlan
from skiplab.search.budget_plan import Importance, best_plan

Loss = Callable[[NestedPlan], float]


@dataclass(frozen=True)
class Profile:
    """The importances about a plan, and its own loss."""

    about: NestedPlan
    loss: float
    importance: Importance

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "about": list(self.about.steps_L),
            "loss": self.loss,
            "cuts": list(self.importance.cuts),
            "loss_by_layer": [
                [value if math.isfinite(value) else None for value in row] for row in self.importance.loss_LC
            ],
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Profile":
        """The inverse of `plain`."""
        rows = tuple(tuple(math.inf if value is None else value for value in row) for row in values["loss_by_layer"])
        return cls(NestedPlan(tuple(values["about"])), values["loss"], Importance(tuple(values["cuts"]), rows))


def measure(about: NestedPlan, loss: Loss, cuts: Sequence[int]) -> Profile:
    """Importances of all layers about a plan; a cut beyond what a layer runs there is barred.

    Args:
        loss: of a plan.
        cuts: ascending; the last one is "to the end".
    """
    own = loss(about)

    def row(layer: int, present: int) -> Iterator[float]:
        for cut in cuts:
            if cut >= present:
                yield 0.0 if cut == present else math.inf
            elif (changed := _with(about, layer, cut)) is None:
                yield math.inf
            else:
                yield loss(changed) - own

    rows = tuple(tuple(row(layer, present)) for layer, present in enumerate(about.steps_L))
    return Profile(about, own, Importance(tuple(cuts), rows))


@dataclass(frozen=True)
class Plans:
    """Plans by layer speedup.

    Attributes:
        profiles: what was measured on the way, the first about full depth.
        solved: plans as the dynamic programme gave them.
        exchanged: the same after exchanges of layers.
    """

    profiles: Sequence[Profile]
    solved: Mapping[float, NestedPlan]
    exchanged: Mapping[float, NestedPlan]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "profiles": [profile.plain() for profile in self.profiles],
            "plans": [
                [speedup, list(self.solved[speedup].steps_L), list(plan.steps_L)]
                for speedup, plan in self.exchanged.items()
            ],
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Plans":
        """The inverse of `plain`."""
        return cls(
            [Profile.from_plain(profile) for profile in values["profiles"]],
            {speedup: NestedPlan(tuple(steps)) for speedup, steps, _ in values["plans"]},
            {speedup: NestedPlan(tuple(steps)) for speedup, _, steps in values["plans"]},
        )


def exchange(plan: NestedPlan, loss: Loss) -> NestedPlan:
    """Let two layers change places for as long as that lowers the loss; the number of layer runs stays.

    Sums of importances ignore interactions between layers; exchanges take them into account, starting from that plan.
    """
    best, best_loss = plan, loss(plan)
    while True:
        pairs = itertools.combinations(range(plan.num_layers), 2)
        others = {_exchanged(best, *pair) for pair in pairs} - {best}
        if not others:
            return best
        found, found_loss = min(((other, loss(other)) for other in others), key=lambda pair: (pair[1], pair[0].steps_L))
        if not found_loss < best_loss:
            return best
        best, best_loss = found, found_loss


def solve_in_stages(
    loss: Loss, *, num_layers: int, reach: Sequence[int], speedups: Sequence[float], parts: int, stages: int
) -> Plans:
    """Plans for layer speedups, each solved for in stages from the one before and then improved by exchanges.

    Args:
        reach: `reach[g - 1]` outputs get to decode step `g`.
        parts: into how many parts of equally many layer runs the cuts divide the steps.
        stages: from one speedup to the next, in equal ratios.

    Raises:
        ValueError: a speedup cannot be reached.
    """
    cuts = cut_points(reach, parts)
    plan = NestedPlan((cuts[-1],) * num_layers)
    profiles: list[Profile] = []
    solved: dict[float, NestedPlan] = {}
    exchanged: dict[float, NestedPlan] = {}
    before = 1.0
    for speedup in sorted(speedups):
        for stage in range(1, stages + 1):
            target = before * (speedup / before) ** (stage / stages)
            profiles.append(measure(plan, loss, cuts))
            plan = best_plan(profiles[-1].importance, reach, num_layers / target)
        solved[speedup] = plan
        plan = exchange(plan, loss)
        exchanged[speedup] = plan
        before = speedup
    return Plans(profiles, solved, exchanged)


def cut_points(reach: Sequence[int], parts: int) -> list[int]:
    """Numbers of steps that divide the outputs' decode steps into about equal parts; first 1, last all."""
    total, passed = sum(reach), 0
    cuts = [1]
    for step, count in enumerate(reach, start=1):
        passed += count
        if passed >= total * len(cuts) / parts and step < len(reach):
            cuts.append(step + 1)
    return [*cuts, len(reach) + 1]


def _exchanged(plan: NestedPlan, one: int, other: int) -> NestedPlan:
    steps = [*plan.steps_L]
    steps[one], steps[other] = steps[other], steps[one]
    return NestedPlan(tuple(steps))


def _with(plan: NestedPlan, layer: int, cut: int) -> NestedPlan | None:
    """The plan with another cut for one layer; None if then no layer ran to the end."""
    changed = [*plan.steps_L]
    changed[layer] = cut
    return NestedPlan(tuple(changed)) if max(changed) == max(plan.steps_L) else None
