"""The tensors at fixed addresses on which recorded steps of rows of mixed ages work.

Shapes: R rows of the cache, B rows that decode, S key positions, D hidden size.
"""

from abc import ABC
from collections.abc import Callable, Hashable, Sequence
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context, Rotary
from skiplab.engine.fused_layers import with_kernels
from skiplab.engine.kv_cache import KVCache, Place
from skiplab.engine.recording import Recorder
from skiplab.engine.step_runners import StepRows, StepRunner

# The fewest columns of a recording.
_COLUMNS = 64


class RecordedRows(StepRunner, ABC):
    """Runs the layers of a step as recordings that a GPU replays, each for one layer.

    A recording serves one number of rows and one of key positions, both rounded up to powers of two, so a layer has at
    most `(1 + log2 R) (1 + log2(S / 64))` recordings. Rows by which a number is rounded up run the layer too: their
    states are kept, and their keys and values go to a column that nobody reads before it is written again.

    Args:
        rows: of the cache.
        extra: integers that a subclass loads with each step.
    """

    def __init__(self, backbone: Backbone, cache: KVCache, *, rows: int, recorder: Recorder, extra: int) -> None:
        self._backbone = with_kernels(backbone)
        self._cache = cache
        self._recorder = recorder
        self._recorded: dict[Hashable, Callable[[], None]] = {}
        device, dtype = backbone.device, backbone.dtype
        self._rows = rows
        self._h_R1D = torch.zeros(rows, 1, backbone.hidden_size, dtype=dtype, device=device)
        self._numbers = torch.zeros(2 * rows + extra, dtype=torch.int64, device=device)
        self._column_R, self._pad_R, self._extra = self._numbers.split([rows, rows, extra])
        self._mask_RS = torch.zeros(rows, 0, dtype=dtype, device=device)
        self._rotary: Rotary | None = None

    def exchange(self, rows: tuple[int, int], filled: tuple[int, int]) -> None:
        pass

    def drop(self, rows: int) -> None:
        pass

    def grow(self, columns: int) -> None:
        """As `StepRunner.grow`. Recordings are dropped, because the cache has moved."""
        self._mask_RS = self._mask_RS.new_zeros(self._rows, columns)
        self._recorded.clear()

    @final
    def _load(self, h_B1D: Tensor, rows: StepRows, extra: Sequence[int]) -> None:
        """Copy a step's inputs to the tensors that the recordings read."""
        self._h_R1D[: len(h_B1D)] = h_B1D
        if rows.rotary is not None:
            if self._rotary is None:
                self._rotary = rows.rotary.map(lambda part: part.new_zeros(self._rows, *part.shape[1:]))
            for own, given in zip(self._rotary, rows.rotary, strict=True):
                own[: len(given)] = given
        pads = [column - position for column, position in zip(rows.columns, rows.positions, strict=True)]
        # A row whose prompt is being read has its next column overwritten, which reading then fills.
        numbers = [*padded([*rows.columns, *rows.reading], self._rows), *padded(pads, self._rows), *extra]
        self._numbers.copy_(torch.tensor(numbers))
        self._replay("mask", self._unmask, [self._mask_RS])

    @final
    def _replay(self, key: Hashable, work: Callable[[], None], changed: Sequence[Tensor]) -> None:
        """Do work on the tensors; it is recorded at its first time. Arguments as for `Recorder.record`."""
        if key not in self._recorded:
            self._recorded[key] = self._recorder.record(work, changed)
        self._recorded[key]()

    @final
    def _bounds(self, rows: StepRows, count: int) -> tuple[int, int]:
        """The rows and columns of the recordings for the first `count` rows."""
        width = max(_COLUMNS, 1 << max(rows.columns[:count]).bit_length())
        return min(1 << (count - 1).bit_length(), self._rows), min(width, self._mask_RS.shape[1])

    @final
    def _context(self, size: int, width: int) -> Context:
        """The context of the first `size` rows; the cache stores there."""
        self._cache.seek(Place(slice(0, size), self._column_R[:size], width))
        rotary = self._rotary and self._rotary.map(lambda part: part[:size])
        return Context(self._mask_RS[:size, None, None, :width], self._cache, rotary)

    def _unmask(self) -> None:
        column_S = torch.arange(self._mask_RS.shape[1], device=self._mask_RS.device)
        hidden_RS = (column_S < self._pad_R[:, None]) | (column_S > self._column_R[:, None])
        self._mask_RS.zero_().masked_fill_(hidden_RS, -torch.inf)


def padded(values: Sequence[int], count: int) -> list[int]:
    """The values, then zeros."""
    return [*values, *[0] * (count - len(values))]
