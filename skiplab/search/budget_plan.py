"""The best nested plan under a budget, from the importance of each layer at each step: dynamic programming.

Pure Python. Shapes: L layers, C cut points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from skiplab.schedules.nested_plan import NestedPlan

_States = dict[tuple[int, bool], tuple[float, tuple[int, ...]]]


@dataclass(frozen=True)
class Importance:
    """Loss increase when one layer is left out, for each layer.

    Attributes:
        cuts: ascending numbers of steps that a layer may run, as in `NestedPlan`.
        loss_LC: how much the loss grows when a layer runs only so many steps; infinite where that is not allowed.
    """

    cuts: tuple[int, ...]
    loss_LC: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if list(self.cuts) != sorted(set(self.cuts)) or not self.cuts or self.cuts[0] < 1:
            raise ValueError(f"cuts must ascend from 1 or more, got {list(self.cuts)}")
        if any(len(row) != len(self.cuts) for row in self.loss_LC):
            raise ValueError(f"expected {len(self.cuts)} losses per layer, one per cut")


def best_plan(importance: Importance, reach: Sequence[int], mean_depth: float) -> NestedPlan:
    """The plan with the least sum of layers' losses whose mean depth is at most `mean_depth`.

    A nested plan is one cut per layer, and both the cost (layer runs over the outputs) and the modelled loss are
    sums over layers, so this is a multiple-choice knapsack, solved exactly over the layer runs.

    Args:
        reach: `reach[g - 1]` outputs get to decode step `g`; the last cut is beyond the last of these steps.

    Raises:
        ValueError: no plan in which some layer runs at every step is that cheap.
    """
    budget = math.floor(mean_depth * sum(reach) + 1e-9)
    # Layer runs that a cut costs; those of step 0 are not counted.
    runs_C = [sum(reach[: cut - 1]) for cut in importance.cuts]
    # By runs spent, and whether some layer runs to the end: the least loss, and the cuts that have it.
    reached: _States = {(0, False): (0.0, ())}
    for loss_C in importance.loss_LC:
        before, reached = _undominated(reached), {}
        for (spent, to_end), (loss, cuts) in before.items():
            for cut, runs, more in zip(importance.cuts, runs_C, loss_C, strict=True):
                state = (spent + runs, to_end or cut == importance.cuts[-1])
                if state[0] <= budget and loss + more < reached.get(state, (math.inf,))[0]:
                    reached[state] = (loss + more, (*cuts, cut))
    whole = [found for (_, to_end), found in reached.items() if to_end]
    if not whole:
        raise ValueError(
            f"no plan has a mean depth of at most {mean_depth:g} with a layer that runs to the end; the cuts are "
            f"{list(importance.cuts)}"
        )
    return NestedPlan(min(whole)[1])


def _undominated(reached: _States) -> _States:
    """The states that are not dominated: no cheaper state of the same kind has at most their loss."""
    kept: _States = {}
    best = {False: math.inf, True: math.inf}
    for spent, to_end in sorted(reached):
        loss, _ = reached[spent, to_end]
        if loss < best[to_end]:
            kept[spent, to_end] = reached[spent, to_end]
            best[to_end] = loss
    return kept
