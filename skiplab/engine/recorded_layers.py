"""Recorded steps of rows that follow their plans.

Shapes: R rows of the cache, B rows that decode, L layers, D hidden size.
"""

from functools import partial
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.recorded_rows import RecordedRows
from skiplab.engine.recording import Recorder
from skiplab.engine.step_runners import PlannedSteps, StepRows


@final
class RecordedLayers(RecordedRows):
    """Runs the planned layers of each row; any mixture of ages and depths is a sequence of recordings.

    A row that leaves out a layer may still be among those that run it (see `RecordedRows`). Then its own column in that
    layer is overwritten, which nobody reads, because a layer that a row leaves out never runs on it again.
    """

    def __init__(self, backbone: Backbone, cache: KVCache, *, rows: int, recorder: Recorder) -> None:
        super().__init__(backbone, cache, rows=rows, recorder=recorder, extra=backbone.num_layers)
        self._eager = PlannedSteps(backbone, cache)
        self._row_R = torch.arange(rows, device=backbone.device)

    def run(self, h_B1D: Tensor, rows: StepRows) -> tuple[Tensor, list[int]]:
        """As `StepRunner.run`; the states are overwritten by the next step."""
        if not rows.whole_prompts:
            return self._eager.run(h_B1D, rows)
        counts_L = [0] * len(self._extra)
        for run in rows.runs:
            for layer in run.layers:
                counts_L[layer] = run.rows
        self._load(h_B1D, rows, counts_L)
        for run in rows.runs:
            size, width = self._bounds(rows, run.rows)
            for layer in run.layers:
                self._replay((layer, size, width), partial(self._layer, layer, size, width), [self._h_R1D])
        return self._h_R1D[: len(h_B1D)], rows.depths

    def _layer(self, layer: int, size: int, width: int) -> None:
        h_R1D = self._h_R1D[:size]
        run_R1D = self._backbone.layer(layer, h_R1D, self._context(size, width))
        runs_R = self._row_R[:size] < self._extra[layer]
        h_R1D.copy_(torch.where(runs_R[:, None, None], run_R1D, h_R1D))
