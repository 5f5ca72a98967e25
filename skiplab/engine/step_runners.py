"""One decode step through the layers, for each kind of policy.

Shapes: B rows, R rows still in the computation, D hidden size.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context
from skiplab.engine.deferred_kv import Deferred
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.policy import AdaptivePolicy, ExitPolicy, HindsightPolicy


class StepRunner(ABC):
    """Takes a batch's newest tokens through the layers of their step."""

    @abstractmethod
    def run(self, h_B1D: Tensor, context: Context, step: int) -> tuple[Tensor, Tensor | int]:
        """From the embedded tokens: the states that the head takes, and the layers run, per row or for all.

        `context.cache` stands at the step's column.
        """

    @abstractmethod
    def keep(self, source: list[int]) -> None:
        """Keep rows as `KVCache.keep` does."""


def step_runner(
    backbone: Backbone, policy: ExitPolicy, cache: KVCache, *, rows: int, columns: int, steps: int
) -> StepRunner:
    """The runner for a policy; arguments as for `Deferred`."""
    if isinstance(policy, AdaptivePolicy):
        deferred = Deferred(backbone, cache, rows=rows, columns=columns, steps=steps)
        runner = CompactSteps if policy.batch_policy == "compact" else FreezingSteps
        return runner(backbone, policy, deferred)
    if isinstance(policy, HindsightPolicy):
        deferred = Deferred(backbone, cache, rows=rows, columns=columns, steps=steps)
        return HindsightSteps(backbone, policy, deferred)
    return PlannedSteps(backbone, policy)


@final
class PlannedSteps(StepRunner):
    """The planned layers, all rows alike."""

    def __init__(self, backbone: Backbone, policy: ExitPolicy) -> None:
        self._backbone = backbone
        self._policy = policy

    def run(self, h_B1D: Tensor, context: Context, step: int) -> tuple[Tensor, int]:
        plan = self._policy.plan(step)
        for index in plan:
            h_B1D = self._backbone.layer(index, h_B1D, context)
        return h_B1D, len(plan)

    def keep(self, source: list[int]) -> None:
        pass


@final
class FreezingSteps(StepRunner):
    """All rows go through the layers until all have exited; the state of those that have stays (`freeze`, `min`)."""

    def __init__(self, backbone: Backbone, policy: AdaptivePolicy, deferred: Deferred) -> None:
        self._backbone = backbone
        self._policy = policy
        self._deferred = deferred

    def run(self, h_B1D: Tensor, context: Context, step: int) -> tuple[Tensor, Tensor]:
        policy, plan = self._policy, self._policy.plan(step)
        exited_B = torch.zeros(len(h_B1D), dtype=torch.bool, device=h_B1D.device)
        depth_B = torch.zeros(len(h_B1D), dtype=torch.int32, device=h_B1D.device)
        any_exited, index = False, 0
        for index in plan:
            self._deferred.flush(index)
            below_B1D = h_B1D
            run_B1D = self._backbone.layer(index, below_B1D, context)
            h_B1D = torch.where(exited_B[:, None, None], below_B1D, run_B1D) if any_exited else run_B1D
            depth_B += ~exited_B
            if index in policy.exit_layers and index != plan[-1]:
                exits_B = policy.exits(h_B1D[:, -1], below_B1D[:, -1], step=step, head=self._backbone.head)
                exited_B |= exits_B.all() if policy.batch_policy == "min" else exits_B
                exited = exited_B.tolist()
                if all(exited):
                    break
                any_exited = any(exited)
        # A frozen row's keys and values were computed by the layers that it went through.
        self._deferred.defer(h_B1D, torch.full((len(h_B1D),), index + 1), step, context.rotary)
        if policy.propagation == "eager":
            for missed in plan[plan.index(index) + 1 :]:
                self._deferred.flush(missed)
        return h_B1D, depth_B

    def keep(self, source: list[int]) -> None:
        self._deferred.keep(source)


@final
class CompactSteps(StepRunner):
    """Rows leave the computation as they exit (`compact`): each layer runs on those that still need it."""

    def __init__(self, backbone: Backbone, policy: AdaptivePolicy, deferred: Deferred) -> None:
        self._backbone = backbone
        self._policy = policy
        self._deferred = deferred

    def run(self, h_B1D: Tensor, context: Context, step: int) -> tuple[Tensor, Tensor]:
        policy, plan, cache = self._policy, self._policy.plan(step), context.cache
        assert isinstance(cache, KVCache)
        last_B1D = torch.empty_like(h_B1D)
        depth_B = torch.full((len(h_B1D),), len(plan), dtype=torch.int32)
        running_R = torch.arange(len(h_B1D))
        h_R1D, running = h_B1D, context
        for depth, index in enumerate(plan, start=1):
            everyone = len(running_R) == len(h_B1D)
            self._deferred.flush(index, None if everyone else running_R)
            cache.select(None if everyone else running_R)
            below_R1D = h_R1D
            h_R1D = self._backbone.layer(index, below_R1D, running)
            if index not in policy.exit_layers or index == plan[-1]:
                continue
            exits_R = policy.exits(h_R1D[:, -1], below_R1D[:, -1], step=step, head=self._backbone.head).cpu()
            if exits_R.any():
                stay_R, leave_R = (~exits_R).nonzero()[:, 0], exits_R.nonzero()[:, 0]
                last_B1D[running_R[leave_R]] = h_R1D[leave_R]
                depth_B[running_R[leave_R]] = depth
                running_R, h_R1D = running_R[stay_R], h_R1D[stay_R]
                running = running.rows(stay_R)
            if not len(running_R):
                break
        cache.select(None)
        last_B1D[running_R] = h_R1D
        above_P = torch.tensor([0, *(index + 1 for index in plan)])
        self._deferred.defer(last_B1D, above_P[depth_B], step, context.rotary)
        if policy.propagation == "eager":
            for missed in plan:
                self._deferred.flush(missed)
        return last_B1D, depth_B.to(h_B1D.device)

    def keep(self, source: list[int]) -> None:
        self._deferred.keep(source)


@final
class HindsightSteps(StepRunner):
    """Every planned layer runs, and then the exits are chosen."""

    def __init__(self, backbone: Backbone, policy: HindsightPolicy, deferred: Deferred) -> None:
        self._backbone = backbone
        self._policy = policy
        self._deferred = deferred

    def run(self, h_B1D: Tensor, context: Context, step: int) -> tuple[Tensor, Tensor]:
        plan = self._policy.plan(step)
        states = [h_B1D]
        for index in plan:
            self._deferred.flush(index)
            states.append(self._backbone.layer(index, states[-1], context))
        depth_B = self._policy.exit_depths([h[:, -1] for h in states], step=step, head=self._backbone.head)
        last_B1D = torch.stack(states)[depth_B, torch.arange(len(h_B1D), device=h_B1D.device)]
        if not self._policy.exact_kv:
            above_P = torch.tensor([0, *(index + 1 for index in plan)])
            self._deferred.defer(last_B1D, above_P[depth_B.cpu()], step, context.rotary)
        return last_B1D, depth_B.int()

    def keep(self, source: list[int]) -> None:
        self._deferred.keep(source)
