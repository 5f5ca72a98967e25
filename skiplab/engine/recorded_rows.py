"""The tensors at fixed addresses on which recorded layers of rows of mixed ages work.

Shapes: R rows of the cache, B rows that decode, T new positions, S key positions, D hidden size.
"""

from abc import ABC
from collections.abc import Callable, Hashable, Sequence
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Context, Rotary
from skiplab.engine.kv_cache import KVCache, Place
from skiplab.engine.recording import Recorder
from skiplab.engine.step_runners import StepRows, StepRunner

# The fewest columns of a recording.
_COLUMNS = 64


@final
class RowTensors:
    """What recordings read and change, and the recordings.

    A recording serves one number of rows and one of key positions, both rounded up to powers of two. Rows by which a
    number is rounded up take part: their states have no meaning, and their keys and values go to columns that nobody
    reads before they are written again.

    Args:
        rows: of the cache.
        width: T.
        extra: integers that are loaded too.

    Attributes:
        h_RTD: the states.
        extra: the integers.
    """

    def __init__(
        self, backbone: Backbone, cache: KVCache, recorder: Recorder, *, rows: int, width: int = 1, extra: int = 0
    ) -> None:
        device, dtype = backbone.device, backbone.dtype
        self._cache = cache
        self._recorder = recorder
        self._recorded: dict[Hashable, Callable[[], None]] = {}
        self._rows = rows
        self._width = width
        self.h_RTD = torch.zeros(rows, width, backbone.hidden_size, dtype=dtype, device=device)
        self._numbers = torch.zeros(2 * rows + extra, dtype=torch.int64, device=device)
        self._column_R, self._pad_R, self.extra = self._numbers.split([rows, rows, extra])
        self._later_T = torch.arange(width, device=device)
        self._mask_RTS = torch.zeros(rows, width, 0, dtype=dtype, device=device)
        self._rotary: Rotary | None = None

    def grow(self, columns: int) -> None:
        """Take the cache's new width. Recordings are dropped, because the cache has moved."""
        self._mask_RTS = self._mask_RTS.new_zeros(self._rows, self._width, columns)
        self._recorded.clear()

    def load(
        self,
        h_BTD: Tensor,
        rotary: Rotary | None,
        *,
        columns: Sequence[int],
        pads: Sequence[int],
        reading: Sequence[int],
        extra: Sequence[int] = (),
    ) -> None:
        """Copy the inputs to the tensors.

        Args:
            columns: each row's first new column.
            pads: each row's columns of left padding.
            reading: the next column of each row whose prompt is being read; these rows follow in the cache. What is
                written there is overwritten when they read on.
        """
        self.h_RTD[: len(h_BTD)] = h_BTD
        if rotary is not None:
            if self._rotary is None:
                self._rotary = rotary.map(lambda part: part.new_zeros(self._rows, *part.shape[1:]))
            for own, given in zip(self._rotary, rotary, strict=True):
                own[: len(given)] = given
        numbers = [*padded([*columns, *reading], self._rows), *padded(pads, self._rows), *extra]
        self._numbers.copy_(torch.tensor(numbers))
        self.replay("mask", self._unmask, [self._mask_RTS])

    def replay(self, key: Hashable, work: Callable[[], None], changed: Sequence[Tensor]) -> None:
        """Do work on the tensors; it is recorded at its first time. Arguments as for `Recorder.record`."""
        if key not in self._recorded:
            self._recorded[key] = self._recorder.record(work, changed)
        self._recorded[key]()

    def bounds(self, columns: Sequence[int]) -> tuple[int, int]:
        """The numbers of rows and key positions of the recordings for the first rows.

        Args:
            columns: the first new column of each of these rows.
        """
        seen = max(_COLUMNS, 1 << (max(columns) + self._width - 1).bit_length())
        return min(1 << (len(columns) - 1).bit_length(), self._rows), min(seen, self._mask_RTS.shape[2])

    def context(self, size: int, seen: int) -> Context:
        """The context of the first `size` rows, which see `seen` columns; the cache stores there."""
        column = self._column_R[:size]
        if self._width > 1:
            column = column[:, None] + self._later_T
        self._cache.seek(Place(slice(0, size), column, seen))
        rotary = self._rotary and self._rotary.map(lambda part: part[:size])
        return Context(self._mask_RTS[:size, None, :, :seen], self._cache, rotary)

    def _unmask(self) -> None:
        column_S = torch.arange(self._mask_RTS.shape[2], device=self._mask_RTS.device)
        newest_RT1 = (self._column_R[:, None] + self._later_T)[..., None]
        hidden_RTS = (column_S < self._pad_R[:, None, None]) | (column_S > newest_RT1)
        self._mask_RTS.zero_().masked_fill_(hidden_RTS, -torch.inf)


class RecordedRows(StepRunner, ABC):
    """Runs a step as recorded layers. A subclass sets `_tensors`."""

    _tensors: RowTensors

    def exchange(self, rows: tuple[int, int], filled: tuple[int, int]) -> None:
        pass

    def drop(self, rows: int) -> None:
        pass

    @final
    def grow(self, columns: int) -> None:
        """As `StepRunner.grow`."""
        self._tensors.grow(columns)

    @final
    def _load(self, h_B1D: Tensor, rows: StepRows, extra: Sequence[int]) -> None:
        pads = [column - position for column, position in zip(rows.columns, rows.positions, strict=True)]
        self._tensors.load(h_B1D, rows.rotary, columns=rows.columns, pads=pads, reading=rows.reading, extra=extra)


def padded(values: Sequence[int], count: int) -> list[int]:
    """The values, then zeros."""
    return [*values, *[0] * (count - len(values))]
