"""Recorded steps of rows that follow their plans.

Shapes: R rows of the cache, B rows that decode, L layers, T new positions, D hidden size.
"""

from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Rotary
from skiplab.engine.fused_layers import with_kernels
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.recorded_rows import RecordedRows, RowTensors
from skiplab.engine.recording import Recorder
from skiplab.engine.step_runners import PlannedSteps, StepRows
from skiplab.schedules.exit_schedule import LayerPlan


@final
class RecordedLayers(RecordedRows):
    """Runs the planned layers of each row; any mixture of ages and depths is a sequence of recordings of one layer.

    A row that leaves out a layer may still be among those that run it (see `RowTensors`). Its state is then kept, and
    its own column in that layer is overwritten, which nobody reads, because a layer that a row leaves out never runs on
    it again.

    Args:
        rows: of the cache.
    """

    def __init__(self, backbone: Backbone, cache: KVCache, *, rows: int, recorder: Recorder) -> None:
        self._backbone = with_kernels(backbone)
        self._eager = PlannedSteps(backbone, cache)
        self._tensors = RowTensors(backbone, cache, recorder, rows=rows, extra=backbone.num_layers)
        self._row_R = torch.arange(rows, device=backbone.device)

    def run(self, h_B1D: Tensor, rows: StepRows) -> tuple[Tensor, list[int]]:
        """As `StepRunner.run`; the states are overwritten by the next step."""
        if not rows.whole_prompts:
            return self._eager.run(h_B1D, rows)
        tensors = self._tensors
        counts_L = [0] * len(tensors.extra)
        for run in rows.runs:
            for layer in run.layers:
                counts_L[layer] = run.rows
        self._load(h_B1D, rows, counts_L)
        for run in rows.runs:
            size, seen = tensors.bounds(rows.columns[: run.rows])
            for layer in run.layers:
                tensors.replay((layer, size, seen), partial(self._layer, layer, size, seen), [tensors.h_RTD])
        return tensors.h_RTD[: len(h_B1D)], rows.depths

    def _layer(self, layer: int, size: int, seen: int) -> None:
        h_R1D = self._tensors.h_RTD[:size]
        run_R1D = self._backbone.layer(layer, h_R1D, self._tensors.context(size, seen))
        runs_R = self._row_R[:size] < self._tensors.extra[layer]
        h_R1D.copy_(torch.where(runs_R[:, None, None], run_R1D, h_R1D))


@final
class RecordedPasses:
    """Passes of all rows through the layers of one plan, one recording per plan and number of new positions.

    Args:
        rows: of the cache.
    """

    def __init__(self, backbone: Backbone, cache: KVCache, *, rows: int, recorder: Recorder) -> None:
        self._backbone = backbone
        self._kernels = with_kernels(backbone)
        self._cache = cache
        self._recorder = recorder
        self._rows = rows
        self._columns = 0
        self._of_width: dict[int, RowTensors] = {}

    @property
    def recordings(self) -> int:
        """Number of recordings that the recorder has made."""
        return self._recorder.count

    def grow(self, columns: int) -> None:
        """As `StepRunner.grow`."""
        self._columns = columns
        for tensors in self._of_width.values():
            tensors.grow(columns)

    def run(
        self,
        h_BTD: Tensor,
        rotary: Rotary | None,
        plan: LayerPlan,
        *,
        columns: Sequence[int],
        pads: Sequence[int],
        reading: Sequence[int],
    ) -> Tensor:
        """The states after the layers of a plan; the next pass overwrites them. Arguments as for `RowTensors.load`."""
        width = h_BTD.shape[1]
        if width not in self._of_width:
            new = RowTensors(self._backbone, self._cache, self._recorder, rows=self._rows, width=width)
            new.grow(self._columns)
            self._of_width[width] = new
        tensors = self._of_width[width]
        tensors.load(h_BTD, rotary, columns=columns, pads=pads, reading=reading)
        key = plan, *tensors.bounds(columns)
        tensors.replay(key, partial(self._pass, tensors, *key), [tensors.h_RTD])
        return tensors.h_RTD[: len(h_BTD)]

    def _pass(self, tensors: RowTensors, plan: LayerPlan, size: int, seen: int) -> None:
        context = tensors.context(size, seen)
        h_RTD = tensors.h_RTD[:size]
        for layer in plan:
            h_RTD = self._kernels.layer(layer, h_RTD, context)
        tensors.h_RTD[:size] = h_RTD
