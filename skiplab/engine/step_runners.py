"""One decode step through the layers, for each kind of policy.

Shapes: B rows, R rows still in the computation, D hidden size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context, Rotary
from skiplab.engine.deferred_kv import Deferred
from skiplab.engine.depth_order import LayerRun
from skiplab.engine.kv_cache import KVCache, Place
from skiplab.engine.policy import AdaptivePolicy, HindsightPolicy, RowwisePolicy

_Policy = TypeVar("_Policy", bound=RowwisePolicy)


@dataclass(frozen=True)
class Span:
    """Neighbouring layers that the same rows run, with the rows' places in the cache and what the layers take."""

    run: LayerRun
    place: Place
    context: Context


@dataclass(frozen=True)
class StepRows:
    """The work of a decode step in which each row has its own column, generation step and plan.

    Attributes:
        runs: the layers of the step, with the rows that run them.
        spans: makes the same with places and contexts; split where rows have other columns in some layers.
        rotary: rotary embeddings of the rows' positions.
        depths: number of layers in each row's plan.
        steps, columns, positions: of each row's token.
        reading: the next column of each row whose prompt is being read; these rows follow in the cache.
        whole_prompts: whether each layer has all positions of the rows' prompts.
    """

    runs: Sequence[LayerRun]
    spans: Callable[[], Sequence[Span]]
    rotary: Rotary | None
    depths: list[int]
    steps: list[int]
    columns: list[int]
    positions: list[int]
    reading: list[int]
    whole_prompts: bool


class StepRunner(ABC):
    """Takes the newest tokens through the layers of their step."""

    @abstractmethod
    def run(self, h_B1D: Tensor, rows: StepRows) -> tuple[Tensor, list[int]]:
        """From the embedded tokens, compute the states for the head, and the number of layers that each row ran."""

    @abstractmethod
    def exchange(self, rows: tuple[int, int], filled: tuple[int, int]) -> None:
        """Swap two rows, as `KVCache.exchange` does."""

    @abstractmethod
    def drop(self, rows: int) -> None:
        """Forget all rows from index `rows` on."""

    @abstractmethod
    def grow(self, columns: int) -> None:
        """Make room for more columns."""


@final
class PlannedSteps(StepRunner):
    """Runs the planned layers of each row."""

    def __init__(self, backbone: Backbone, cache: KVCache) -> None:
        self._backbone = backbone
        self._cache = cache

    def run(self, h_B1D: Tensor, rows: StepRows) -> tuple[Tensor, list[int]]:
        for span in rows.spans():
            self._cache.seek(span.place)
            count = span.run.rows
            run_R1D = h_B1D[:count]
            for layer in span.run.layers:
                run_R1D = self._backbone.layer(layer, run_R1D, span.context)
            if count == len(h_B1D):
                h_B1D = run_R1D
            else:
                h_B1D[:count] = run_R1D
        return h_B1D, rows.depths

    def exchange(self, rows: tuple[int, int], filled: tuple[int, int]) -> None:
        pass

    def drop(self, rows: int) -> None:
        pass

    def grow(self, columns: int) -> None:
        pass


def one_run(rows: StepRows) -> LayerRun:
    """The layers of rows that all have the same plan.

    Raises:
        ValueError: they have not.
    """
    if len(rows.runs) != 1:
        raise ValueError("rows that decide when to exit can decode together only if their plans are the same")
    return rows.runs[0]


class RowwiseSteps(StepRunner, ABC, Generic[_Policy]):
    """All rows share one plan, and each may leave it early."""

    def __init__(self, backbone: Backbone, policy: _Policy, cache: KVCache, deferred: Deferred) -> None:
        self._backbone = backbone
        self._policy = policy
        self._cache = cache
        self._deferred = deferred

    @final
    def exchange(self, rows: tuple[int, int], filled: tuple[int, int]) -> None:
        self._deferred.exchange(rows, filled)

    @final
    def drop(self, rows: int) -> None:
        self._deferred.drop(rows)

    @final
    def grow(self, columns: int) -> None:
        self._deferred.grow(columns)

    @final
    def run(self, h_B1D: Tensor, rows: StepRows) -> tuple[Tensor, list[int]]:
        one_run(rows)
        (span,) = rows.spans()
        self._cache.seek(span.place)
        h_B1D, depth_B = self._exit(h_B1D, span, rows)
        return h_B1D, depth_B.tolist()

    @abstractmethod
    def _exit(self, h_B1D: Tensor, span: Span, rows: StepRows) -> tuple[Tensor, Tensor]:
        """As `run`, with the depths as a tensor."""


@final
class FreezingSteps(RowwiseSteps[AdaptivePolicy]):
    """Layers run on all rows until every row has exited; an exited row's state stays the same (`freeze`, `min`)."""

    def _exit(self, h_B1D: Tensor, span: Span, rows: StepRows) -> tuple[Tensor, Tensor]:
        policy, plan, context = self._policy, span.run.layers, span.context
        step_B = torch.tensor(rows.steps)
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
                exits_B = policy.exits(
                    h_B1D[:, -1], below_B1D[:, -1], layer=index, step_B=step_B, head=self._backbone.head
                )
                exited_B |= exits_B.all() if policy.batch_policy == "min" else exits_B
                exited = exited_B.tolist()
                if all(exited):
                    break
                any_exited = any(exited)
        # Layers below this one also ran on frozen rows, so their keys and values exist.
        self._deferred.defer(h_B1D, torch.full((len(h_B1D),), index + 1), rows.columns, rows.positions)
        if policy.propagation == "eager":
            for missed in plan[plan.index(index) + 1 :]:
                self._deferred.flush(missed)
        return h_B1D, depth_B


@final
class CompactSteps(RowwiseSteps[AdaptivePolicy]):
    """Rows leave the computation as they exit (`compact`): each layer runs on those that still need it."""

    def _exit(self, h_B1D: Tensor, span: Span, rows: StepRows) -> tuple[Tensor, Tensor]:
        policy, plan, context = self._policy, span.run.layers, span.context
        last_B1D = torch.empty_like(h_B1D)
        depth_B = torch.full((len(h_B1D),), len(plan), dtype=torch.int32)
        running_R, step_B = torch.arange(len(h_B1D)), torch.tensor(rows.steps)
        h_R1D, running = h_B1D, context
        for depth, index in enumerate(plan, start=1):
            everyone = len(running_R) == len(h_B1D)
            self._deferred.flush(index, None if everyone else running_R)
            self._cache.seek(span.place if everyone else span.place.pick(running_R))
            below_R1D = h_R1D
            h_R1D = self._backbone.layer(index, below_R1D, running)
            if index not in policy.exit_layers or index == plan[-1]:
                continue
            exits_R = policy.exits(
                h_R1D[:, -1], below_R1D[:, -1], layer=index, step_B=step_B[running_R], head=self._backbone.head
            ).cpu()
            if exits_R.any():
                stay_R, leave_R = (~exits_R).nonzero()[:, 0], exits_R.nonzero()[:, 0]
                last_B1D[running_R[leave_R]] = h_R1D[leave_R]
                depth_B[running_R[leave_R]] = depth
                running_R, h_R1D = running_R[stay_R], h_R1D[stay_R]
                running = running.rows(stay_R)
            if not len(running_R):
                break
        last_B1D[running_R] = h_R1D
        above_P = torch.tensor([0, *(index + 1 for index in plan)])
        self._deferred.defer(last_B1D, above_P[depth_B], rows.columns, rows.positions)
        if policy.propagation == "eager":
            for missed in plan:
                self._deferred.flush(missed)
        return last_B1D, depth_B


@final
class HindsightSteps(RowwiseSteps[HindsightPolicy]):
    """Every planned layer runs; the exits are chosen afterwards."""

    def _exit(self, h_B1D: Tensor, span: Span, rows: StepRows) -> tuple[Tensor, Tensor]:
        plan, context = span.run.layers, span.context
        states = [h_B1D]
        for index in plan:
            self._deferred.flush(index)
            states.append(self._backbone.layer(index, states[-1], context))
        depth_B = self._policy.exit_depths(
            [h[:, -1] for h in states], step_B=torch.tensor(rows.steps), head=self._backbone.head
        )
        last_B1D = torch.stack(states)[depth_B, torch.arange(len(h_B1D), device=h_B1D.device)]
        if not self._policy.exact_kv:
            above_P = torch.tensor([0, *(index + 1 for index in plan)])
            self._deferred.defer(last_B1D, above_P[depth_B.cpu()], rows.columns, rows.positions)
        return last_B1D, depth_B.int()
