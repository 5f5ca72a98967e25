"""Preallocated key/value stores in which each layer holds only the positions that it runs.

Shapes: B rows, H key/value heads, T positions, N single positions, K head size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from skiplab.kernels.support import has_kernels


class KVStore(ABC):
    """Keys and values of all layers. Hugging Face's attention modules call `update`.

    Args:
        slots_L: positions to hold per layer. A layer of 0 slots keeps nothing: its keys and values
            serve the forward that computed them and are dropped.
    """

    def __init__(
        self,
        slots_L: Sequence[int],
        *,
        rows: int,
        heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._keys = [torch.empty(rows, heads, slots, head_size, dtype=dtype, device=device) for slots in slots_L]
        self._values = [torch.empty_like(key) for key in self._keys]

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values))

    @abstractmethod
    def seek(self, start: int) -> None:
        """Set the column at which each layer's next `update` writes."""

    @abstractmethod
    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store the new columns of a layer; return what it attends to, the new columns included."""


@final
class KVCache(KVStore):
    """Written in place at a moving column; rows can leave. Arguments as for `KVStore`."""

    def __init__(self, slots_L: Sequence[int], *, rows: int, **options: Any) -> None:
        super().__init__(slots_L, rows=rows, **options)
        self._rows = rows
        self._selected: Tensor | None = None
        self._start = 0
        self._end = 0

    def seek(self, start: int) -> None:
        self._start = start

    def select(self, rows: Tensor | None) -> None:
        """Set the rows that the next `update` calls bring, by index; None is all rows, in order."""
        self._selected = rows

    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As `KVStore.update`: a layer's filled prefix, a view, or a copy where rows are selected."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if keys.shape[2] == 0:
            return key_BHTK, value_BHTK
        end = self._end = self._start + key_BHTK.shape[2]
        if end > keys.shape[2]:
            raise IndexError(f"layer {layer_idx} holds {keys.shape[2]} positions, asked to write up to {end}")
        if self._selected is not None:
            keys[self._selected, :, self._start : end] = key_BHTK
            values[self._selected, :, self._start : end] = value_BHTK
            return keys[self._selected, :, :end], values[self._selected, :, :end]
        keys[: self._rows, :, self._start : end] = key_BHTK
        values[: self._rows, :, self._start : end] = value_BHTK
        return keys[: self._rows, :, :end], values[: self._rows, :, :end]

    def put(self, layer: int, row_N: Tensor, column_N: Tensor, key_NHK: Tensor, value_NHK: Tensor) -> None:
        """Store single positions of a layer, each at its row and column."""
        self._keys[layer][row_N, :, column_N] = key_NHK
        self._values[layer][row_N, :, column_N] = value_NHK

    def keep(self, source: Sequence[int]) -> None:
        """Keep `len(source)` rows: row `i` becomes the present row `source[i]`, where `source[i] >= i`."""
        self._rows = len(source)
        moves = [(to, row) for to, row in enumerate(source) if to != row]
        for buffer in (*self._keys, *self._values):
            filled = buffer[:, :, : self._end]
            for to, row in moves:
                filled[to] = filled[row]


@final
class StaticKVCache(KVStore):
    """Written at a column that a tensor holds, and attended to in whole buckets, so that a recorded step can be
    replayed; columns not yet written must be masked. Arguments as for `KVStore`.

    Attributes:
        column_1: where the next single column goes.
        bucket: columns that a step attends to; 0 is the prompt pass.
    """

    def __init__(self, slots_L: Sequence[int], *, rows: int, device: torch.device, **options: Any) -> None:
        super().__init__(slots_L, rows=rows, device=device, **options)
        # What a mask hides must still be finite.
        for buffer in (*self._keys, *self._values):
            buffer.zero_()
        self.column_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.bucket = 0
        self._kernels = has_kernels(device)

    def seek(self, start: int) -> None:
        self.column_1.fill_(start)

    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As `KVStore.update`. Without a bucket the columns are a prompt's: they begin at the first."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if keys.shape[2] == 0:
            return key_BHTK, value_BHTK
        if self.bucket == 0:
            keys[:, :, : key_BHTK.shape[2]] = key_BHTK
            values[:, :, : key_BHTK.shape[2]] = value_BHTK
            return key_BHTK, value_BHTK
        if self._kernels:
            from skiplab.kernels.triton_ops import copy_to_column

            copy_to_column(key_BHTK, value_BHTK, keys, values, self.column_1)
        else:
            keys.index_copy_(2, self.column_1, key_BHTK)
            values.index_copy_(2, self.column_1, value_BHTK)
        return keys[:, :, : self.bucket], values[:, :, : self.bucket]
