"""Adaptive steps: when keys and values are projected, and which rows run which layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final, get_args

import pytest
import torch
from torch import Tensor

import skiplab.engine.batch_run
from skiplab.engine.backbone import Backbone, Context, Rotary
from skiplab.engine.batch import left_pad
from skiplab.engine.decode import DecodeResult, decode
from skiplab.engine.deferred_kv import Deferred
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.parallel_forward import layer_states
from skiplab.engine.policy import AdaptivePolicy, BatchPolicy, ExitPolicy, Head, Propagation, Scheduled
from skiplab.engine.step_runners import CompactSteps, FreezingSteps
from skiplab.schedules.exit_schedule import ExitSchedule, LayerPlan, PlanKind
from tests.test_conformance import check_leaving_rows, check_parallel_forward
from tests.tiny import PAD, CoordinateExit, prompts, tiny_backbone

# From nearly all rows exiting at the first exit to nearly none exiting, in every layout.
BOUNDS = [0.0, 0.5, 1.0, 1.5, 3.0, 5.0]
BATCH_POLICIES: tuple[BatchPolicy, ...] = get_args(BatchPolicy)
PROPAGATIONS: tuple[Propagation, ...] = get_args(Propagation)
LIMITS = [12, 3, 9, 1, 12, 6]


@dataclass
class Traced:
    """One decoding, with the keys and values that it stores and the work that it does.

    Attributes:
        cache, runner: those of the decoding.
        projected: (layer, positions) of each projection for missed steps.
        ran: (layer, rows) of each decode step's layers.
    """

    result: DecodeResult
    cache: KVCache
    runner: FreezingSteps | CompactSteps
    projected: list[tuple[int, int]] = field(default_factory=list)
    ran: list[tuple[int, int]] = field(default_factory=list)

    @property
    def positions(self) -> int:
        return sum(positions for _, positions in self.projected)

    @torch.inference_mode()
    def settle(self) -> None:
        """Flush everything that is still deferred."""
        for layer in range(6):
            self.runner._deferred.flush(layer)

    def kept(self, layer: int) -> Tensor:
        """Keys and values of the rows that decoded to the end: (2, B, H, S, K)."""
        rows = int((self.result.length_B == self.result.length_B.max()).sum())
        return torch.stack([self.cache._keys[layer], self.cache._values[layer]])[:, :rows]


Trace = Callable[..., Traced]


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """A function that decodes prompts of different lengths to different limits; caches start with zeros."""

    def traced(backbone: Backbone, policy: ExitPolicy, limits: Sequence[int] = LIMITS) -> Traced:
        made: dict[str, Any] = {}
        projected: list[tuple[int, int]] = []
        ran: list[tuple[int, int]] = []
        new_cache, project, layer, runner = (
            backbone.new_cache, backbone.project_kv, backbone.layer, skiplab.engine.batch_run.step_runner,
        )  # fmt: skip

        drop = Deferred.drop

        def zeroed_cache(rows: int, slots_L: list[int]) -> KVCache:
            made["cache"] = new_cache(rows, slots_L)
            for buffer in (*made["cache"]._keys, *made["cache"]._values):
                buffer.zero_()
            return made["cache"]

        def counted_project(index: int, h_BTD: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
            projected.append((index, h_BTD.shape[0] * h_BTD.shape[1]))
            return project(index, h_BTD, rotary)

        def counted_layer(index: int, h_BTD: Tensor, context: Context) -> Tensor:
            if "runner" in made and h_BTD.shape[1] == 1:
                ran.append((index, len(h_BTD)))
            return layer(index, h_BTD, context)

        def kept_runner(*args: Any, **options: Any) -> Any:
            made["runner"] = runner(*args, **options)
            return made["runner"]

        with monkeypatch.context() as patch:
            patch.setattr(backbone, "new_cache", zeroed_cache)
            patch.setattr(backbone, "project_kv", counted_project)
            patch.setattr(backbone, "layer", counted_layer)
            patch.setattr(skiplab.engine.batch_run, "step_runner", kept_runner)
            # Keep the deferred states of the last rows, which are inspected afterwards.
            patch.setattr(Deferred, "drop", lambda self, rows: drop(self, rows) if rows else None)
            rows = prompts(len(limits), seed=2)
            assert len(set(map(len, rows))) > 1
            result = decode(backbone, policy, rows, max_new_tokens=limits, eos_id=None, pad_id=PAD)
        return Traced(result, made["cache"], made["runner"], projected, ran)

    return traced


@pytest.mark.parametrize("batch_policy", BATCH_POLICIES)
def test_lazy_and_eager_give_the_same_result(backbone: Backbone, trace: Trace, batch_policy: BatchPolicy) -> None:
    missing = paid = 0
    for bound in BOUNDS:
        lazy, eager = (
            trace(backbone, CoordinateExit(bound, batch_policy=batch_policy, propagation=propagation))
            for propagation in ("lazy", "eager")
        )
        assert torch.equal(lazy.result.tokens_BT, eager.result.tokens_BT)
        assert torch.equal(lazy.result.depth_BT, eager.result.depth_BT)
        paid += lazy.positions
        for layer in range(6):
            filled = lazy.kept(layer) != 0
            assert (eager.kept(layer) != 0).all()
            missing += int((~filled).sum())
            torch.testing.assert_close(lazy.kept(layer)[filled], eager.kept(layer)[filled])
        lazy.settle()
        for layer in range(6):
            torch.testing.assert_close(lazy.kept(layer), eager.kept(layer))
    assert missing
    assert paid


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_compact_and_freeze_give_the_same_result(backbone: Backbone, trace: Trace, propagation: Propagation) -> None:
    depths = set()
    for bound in BOUNDS:
        freeze, compact = (
            trace(backbone, CoordinateExit(bound, batch_policy=batch_policy, propagation=propagation))
            for batch_policy in ("freeze", "compact")
        )
        assert torch.equal(freeze.result.tokens_BT, compact.result.tokens_BT)
        assert torch.equal(freeze.result.depth_BT, compact.result.depth_BT)
        assert torch.equal(freeze.result.length_B, torch.tensor(LIMITS))
        freeze.settle()
        compact.settle()
        for layer in range(6):
            torch.testing.assert_close(freeze.kept(layer), compact.kept(layer))
        depths |= set(compact.result.depth_BT[:, 1:].unique().tolist())
    assert len(depths - {0}) > 3


@pytest.mark.parametrize("batch_policy", BATCH_POLICIES)
def test_lazy_projects_no_more_than_eager(backbone: Backbone, trace: Trace, batch_policy: BatchPolicy) -> None:
    counts = [
        [
            trace(backbone, CoordinateExit(bound, batch_policy=batch_policy, propagation=propagation)).positions
            for propagation in ("lazy", "eager")
        ]
        for bound in BOUNDS
    ]
    assert all(lazy <= eager for lazy, eager in counts)
    assert any(0 < lazy < eager for lazy, eager in counts)


def test_compact_runs_layers_on_the_rows_that_need_them_freeze_on_all(backbone: Backbone, trace: Trace) -> None:
    saved = 0
    for bound in BOUNDS:
        compact = trace(backbone, CoordinateExit(bound, batch_policy="compact"))
        depth_BT = compact.result.depth_BT[:, 1:]
        needed = int(depth_BT.sum())
        assert sum(rows for _, rows in compact.ran) == needed
        deepest = int(((depth_BT > 0).sum(0) * depth_BT.max(0).values).sum())
        freeze = trace(backbone, CoordinateExit(bound, batch_policy="freeze"))
        assert sum(rows for _, rows in freeze.ran) == deepest
        saved += deepest - needed
    assert saved


@pytest.mark.parametrize("batch_policy", ["freeze", "compact"])
def test_lazy_fills_only_what_a_row_reads(backbone: Backbone, trace: Trace, batch_policy: BatchPolicy) -> None:
    left_out = 0
    for bound in BOUNDS:
        lazy = trace(backbone, CoordinateExit(bound, batch_policy=batch_policy), [12] * 3)
        depth_BG = lazy.result.depth_BT[:, 1:]
        # A row runs a layer at steps of at least that depth; with freeze, the depth is that of the batch's deepest row.
        run_BG = depth_BG if batch_policy == "compact" else depth_BG.max(0).values.expand_as(depth_BG)
        deepest_later_BG = run_BG.flip(1).cummax(1).values.flip(1)
        for layer in range(6):
            filled_BG = (lazy.kept(layer) != 0).all(-1).all(2).all(0)[:, -11:]
            assert torch.equal(filled_BG, deepest_later_BG > layer)
            left_out += int((~filled_BG).sum())
    assert left_out


@final
class EveryFourthStepDeep(AdaptivePolicy):
    """All rows exit after the first layer, except at every fourth step."""

    def __init__(self, batch_policy: BatchPolicy, propagation: Propagation) -> None:
        super().__init__(range(5), batch_policy=batch_policy, propagation=propagation)

    def plan(self, step: int) -> LayerPlan:
        return tuple(range(6))

    def exits(self, h_BD: Tensor, below_BD: Tensor, *, layer: int, step_B: Tensor, head: Head) -> Tensor:
        return (step_B % 4 != 0).to(h_BD.device)


@pytest.mark.parametrize("batch_policy", BATCH_POLICIES)
def test_layers_project_missed_states_when_a_step_reaches_them(trace: Trace, batch_policy: BatchPolicy) -> None:
    lazy = trace(tiny_backbone(), EveryFourthStepDeep(batch_policy, "lazy"), [10] * 3)
    # Of steps 1 to 9, 4 and 8 reach the upper five layers; each projects three missed steps of three rows at once.
    assert lazy.projected == [(layer, 9) for _ in range(2) for layer in range(1, 6)]
    eager = trace(tiny_backbone(), EveryFourthStepDeep(batch_policy, "eager"), [10] * 3)
    assert eager.projected == [(layer, 3) for _ in (1, 2, 3, 5, 6, 7, 9) for layer in range(1, 6)]


@pytest.mark.parametrize("kind", get_args(PlanKind))
@pytest.mark.parametrize("batch_policy", BATCH_POLICIES)
@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_rows_may_exit_below_a_schedules_depth(
    backbone: Backbone, trace: Trace, kind: PlanKind, batch_policy: BatchPolicy, propagation: Propagation
) -> None:
    planned = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8), kind)
    above = 0
    for bound in (-9.0, 1.0, 3.0):
        policy = CoordinateExit(bound, batch_policy=batch_policy, propagation=propagation, planned=planned)
        depth_BT = check_parallel_forward(backbone, policy, prompts(4)).depth_BT
        above += sum(int((depth_BT[:, step] < len(planned.plan(step))).sum()) for step in range(1, 14))
        if batch_policy != "min":
            check_leaving_rows(backbone, policy, prompts(3), [2, 14, 14])
    assert above


@torch.inference_mode()
def test_the_batch_waits_for_its_least_confident_row(backbone: Backbone) -> None:
    rows, waits = prompts(3, seed=1), 0
    first = decode(backbone, CoordinateExit(0.0), rows, max_new_tokens=1, eos_id=None, pad_id=PAD).tokens_BT
    ids, mask = left_pad(rows, PAD)
    # The states of step 1 if no row exits, which the batch has as long as it waits.
    states = [h[:, -1] for h in layer_states(backbone, torch.cat([ids, first], dim=1), mask)]
    one_B = torch.ones(3, dtype=torch.int64)
    for bound in BOUNDS:
        exits_LB = torch.stack(
            [
                CoordinateExit(bound).exits(h, h, layer=layer, step_B=one_B, head=backbone.head)
                for layer, h in enumerate(states[:5])
            ]
        )
        together = [layer + 1 for layer in range(5) if exits_LB[layer].all()]
        alone = [next((layer + 1 for layer in range(5) if exits_LB[layer, row]), 6) for row in range(3)]
        policy = CoordinateExit(bound, batch_policy="min")
        depth_BT = decode(backbone, policy, rows, max_new_tokens=2, eos_id=None, pad_id=PAD).depth_BT
        assert depth_BT[:, 1].tolist() == [min(together, default=6)] * 3
        assert depth_BT[0, 1] >= max(alone)
        waits += int(depth_BT[0, 1]) > min(alone)
    assert waits
