"""The ragged step as recorded layers, for a GPU.

Shapes: R rows of the cache, B rows that decode, L layers, S key positions, D hidden size.
"""

from collections.abc import Callable
from functools import partial
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context, Rotary
from skiplab.engine.fused_layers import with_kernels
from skiplab.engine.kv_cache import KVCache, Place
from skiplab.engine.recording import Recorder
from skiplab.engine.step_runners import PlannedSteps, StepRows, StepRunner

# The fewest columns of a recording.
_COLUMNS = 64


@final
class RecordedLayers(StepRunner):
    """Runs the planned layers of each row, each layer as a recording that a GPU replays.

    A recording serves one layer and one number of rows and of key positions, both rounded up to powers of two. So there
    are at most `L (1 + log2 R) (1 + log2(S / 64))` recordings, and any mixture of ages and depths is a sequence of
    these. The rows by which a number is rounded up run the layer too: their states are kept, and their keys and values
    go to a column that nobody reads. This is their own column if they decode, because a layer that a row leaves out
    never runs on it again, and otherwise the next column to be read from their prompts.

    Args:
        rows: of the cache.
    """

    def __init__(self, backbone: Backbone, cache: KVCache, *, rows: int, recorder: Recorder) -> None:
        self._backbone = with_kernels(backbone)
        self._cache = cache
        self._eager = PlannedSteps(backbone, cache)
        self._recorder = recorder
        self._recorded: dict[tuple[int, int, int], Callable[[], None]] = {}
        self._begin: Callable[[], None] | None = None
        device, dtype = backbone.device, backbone.dtype
        self._rows = rows
        self._h_R1D = torch.zeros(rows, 1, backbone.hidden_size, dtype=dtype, device=device)
        self._numbers = torch.zeros(2 * rows + backbone.num_layers, dtype=torch.int64, device=device)
        self._column_R, self._pad_R, self._count_L = self._numbers.split([rows, rows, backbone.num_layers])
        self._row_R = torch.arange(rows, device=device)
        self._mask_RS = torch.zeros(rows, 0, dtype=dtype, device=device)
        self._rotary: Rotary | None = None

    def run(self, h_B1D: Tensor, rows: StepRows) -> tuple[Tensor, list[int]]:
        """As `StepRunner.run`; the states are overwritten by the next step."""
        if not rows.whole_prompts:
            return self._eager.run(h_B1D, rows)
        self._load(h_B1D, rows)
        for span in rows.spans:
            size, width = self._size(span.rows), self._width(max(rows.columns[: span.rows]) + 1)
            for layer in span.layers:
                self._run(layer, size, width)
        return self._h_R1D[: len(h_B1D)], rows.depths

    def exchange(self, rows: tuple[int, int], filled: tuple[int, int]) -> None:
        pass

    def drop(self, rows: int) -> None:
        pass

    def grow(self, columns: int) -> None:
        """As `StepRunner.grow`. Recordings are dropped, because the cache has moved."""
        self._mask_RS = self._mask_RS.new_zeros(self._rows, columns)
        self._recorded.clear()
        self._begin = None

    def _load(self, h_B1D: Tensor, rows: StepRows) -> None:
        """Copy a step's inputs to the tensors that the recordings read."""
        self._h_R1D[: len(h_B1D)] = h_B1D
        # All rows run the layers of the shallowest.
        rotary = max(rows.spans, key=lambda span: span.rows).context.rotary
        if rotary is not None:
            if self._rotary is None:
                self._rotary = rotary.map(lambda part: part.new_zeros(self._rows, *part.shape[1:]))
            for own, given in zip(self._rotary, rotary, strict=True):
                own[: len(given)] = given
        counts = [0] * len(self._count_L)
        for span in rows.spans:
            for layer in span.layers:
                counts[layer] = span.rows
        columns = [*rows.columns, *rows.reading]
        pads = [column - position for column, position in zip(rows.columns, rows.positions, strict=True)]
        self._numbers.copy_(torch.tensor([*_filled(columns, self._rows), *_filled(pads, self._rows), *counts]))
        if self._begin is None:
            self._begin = self._recorder.record(self._mask, [self._mask_RS])
        self._begin()

    def _mask(self) -> None:
        column_S = torch.arange(self._mask_RS.shape[1], device=self._mask_RS.device)
        hidden_RS = (column_S < self._pad_R[:, None]) | (column_S > self._column_R[:, None])
        self._mask_RS.zero_().masked_fill_(hidden_RS, -torch.inf)

    def _run(self, layer: int, size: int, width: int) -> None:
        key = layer, size, width
        if key not in self._recorded:
            self._recorded[key] = self._recorder.record(partial(self._layer, *key), [self._h_R1D])
        self._recorded[key]()

    def _layer(self, layer: int, size: int, width: int) -> None:
        self._cache.seek(Place(slice(0, size), self._column_R[:size], width))
        rotary = self._rotary and self._rotary.map(lambda part: part[:size])
        context = Context(self._mask_RS[:size, None, None, :width], self._cache, rotary)
        h_R1D = self._h_R1D[:size]
        runs_R = self._row_R[:size] < self._count_L[layer]
        h_R1D.copy_(torch.where(runs_R[:, None, None], self._backbone.layer(layer, h_R1D, context), h_R1D))

    def _size(self, rows: int) -> int:
        return min(1 << (rows - 1).bit_length(), self._rows)

    def _width(self, columns: int) -> int:
        return min(max(_COLUMNS, 1 << (columns - 1).bit_length()), self._mask_RS.shape[1])


def _filled(values: list[int], count: int) -> list[int]:
    return [*values, *[0] * (count - len(values))]
