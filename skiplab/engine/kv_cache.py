"""Preallocated key/value stores in which each layer holds only the positions that it runs.

Shapes: B rows, H key/value heads, T positions, N single positions, K head size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
        # Zeros, because a mask cannot hide NaN or infinity in columns that are not written yet.
        self._keys = [torch.zeros(rows, heads, slots, head_size, dtype=dtype, device=device) for slots in slots_L]
        self._values = [torch.zeros_like(key) for key in self._keys]

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values))

    @abstractmethod
    def seek(self, place: int) -> None:
        """Set the column at which each layer's next `update` writes."""

    @abstractmethod
    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store the new columns of a layer; return the keys and values that it attends to, new columns included."""


@final
class KeptKV(KVStore):
    """Keeps the keys and values (B, H, T, K) of each layer that runs, as they come and with their gradients.

    Attributes:
        layers: by the layer's index.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def seek(self, place: int) -> None:
        pass

    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.layers[layer_idx] = key_BHTK, value_BHTK
        return key_BHTK, value_BHTK


class KnownKV(KVStore, ABC):
    """Keys and values (B, H, T, K) of one layer that are known before it runs; its own are dropped."""

    def __init__(self, key_BHTK: Tensor, value_BHTK: Tensor) -> None:
        self._keys, self._values = [key_BHTK], [value_BHTK]

    def seek(self, place: int) -> None:
        pass


@final
class ContinuedKV(KnownKV):
    """Those of earlier positions; the layer attends to its own, too, which follow."""

    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self._keys[0], key_BHTK], dim=2), torch.cat([self._values[0], value_BHTK], dim=2)


@final
class GivenKV(KnownKV):
    """The layer attends to these alone."""

    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._keys[0], self._values[0]


@final
@dataclass(frozen=True)
class Place:
    """Where the next keys and values of each layer go, and which columns are attended to.

    Attributes:
        rows: the rows to write: a slice of neighbours, or any rows by index.
        column: the first new column, an integer, for all rows; or the column of each new position, (R,) or (R, T).
        end: attention reads the columns before `end`; None reads those up to and including the new ones.
    """

    rows: slice | Tensor
    column: int | Tensor
    end: int | None = None

    @cached_property
    def row_index(self) -> Tensor:
        """The rows by index, made once for all layers."""
        if not isinstance(self.rows, slice):
            return self.rows
        device = None if isinstance(self.column, int) else self.column.device
        return torch.arange(self.rows.start, self.rows.stop, device=device)

    def pick(self, index_N: Tensor) -> "Place":
        """The place of some of these rows."""
        column = self.column if isinstance(self.column, int) else self.column[index_N]
        return Place(self.row_index[index_N], column, self.end)


@final
class KVCache(KVStore):
    """Written in place, at one column for all rows or at one per row; rows can be swapped.

    Arguments as for `KVStore`.
    """

    def __init__(self, slots_L: Sequence[int], *, rows: int, **options: Any) -> None:
        super().__init__(slots_L, rows=rows, **options)
        self._place = Place(slice(0, rows), 0)

    def seek(self, place: int | Place) -> None:
        """Set where each layer's next `update` writes; an integer is a column for all rows."""
        self._place = Place(slice(0, len(self._keys[0])), place) if isinstance(place, int) else place

    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As `KVStore.update`; the result is a view, or a copy if rows are given by index."""
        keys, values, place = self._keys[layer_idx], self._values[layer_idx], self._place
        if keys.shape[2] == 0:
            return key_BHTK, value_BHTK
        if isinstance(place.column, int):
            end = place.column + key_BHTK.shape[2]
            new = (place.rows, slice(None), slice(place.column, end))
            end = place.end or end
        else:
            assert place.end is not None
            end = place.end
            if place.column.dim() == 1:
                new = (place.row_index, slice(None), place.column)
                key_BHTK, value_BHTK = key_BHTK[:, :, 0], value_BHTK[:, :, 0]
            else:
                new = (place.row_index[:, None], slice(None), place.column)
                key_BHTK, value_BHTK = key_BHTK.transpose(1, 2), value_BHTK.transpose(1, 2)
        if end > keys.shape[2]:
            raise IndexError(f"layer {layer_idx} holds {keys.shape[2]} positions, asked to write up to {end}")
        keys[new], values[new] = key_BHTK, value_BHTK
        return keys[place.rows, :, :end], values[place.rows, :, :end]

    def grow(self, slots_L: Sequence[int]) -> None:
        """Make room for more positions per layer and keep the stored ones."""
        for layer, slots in enumerate(slots_L):
            for buffers in (self._keys, self._values):
                before = buffers[layer]
                rows, heads, filled, size = before.shape
                buffers[layer] = before.new_zeros(rows, heads, slots, size)
                buffers[layer][:, :, :filled] = before

    def put(self, layer: int, row_N: Tensor, column_N: Tensor, key_NHK: Tensor, value_NHK: Tensor) -> None:
        """Store single positions of a layer, each at its row and column."""
        self._keys[layer][row_N, :, column_N] = key_NHK
        self._values[layer][row_N, :, column_N] = value_NHK

    def exchange(self, layer: int, rows: tuple[int, int], filled: tuple[int, int]) -> None:
        """Swap two rows in a layer.

        Args:
            filled: how many leading columns of each row are kept; 0 if no later step reads the row.
        """
        for buffer in (self._keys[layer], self._values[layer]):
            exchange(buffer, rows, filled, dim=1)


def exchange(buffer: Tensor, rows: tuple[int, int], filled: tuple[int, int], *, dim: int) -> None:
    """Swap two rows of a tensor, up to their filled lengths along dimension `dim` of a row."""
    one, other = (
        buffer[row].narrow(dim, 0, min(length, buffer.shape[dim + 1])) for row, length in zip(rows, filled, strict=True)
    )
    kept = one.clone() if one.numel() else one
    buffer[rows[0]].narrow(dim, 0, other.shape[dim]).copy_(other)
    buffer[rows[1]].narrow(dim, 0, kept.shape[dim]).copy_(kept)


@final
class StaticKVCache(KVStore):
    """For recorded steps: the column to write is held in a tensor, and attention reads whole buckets of columns, so
    that a step can be replayed. Columns not yet written must be masked. Arguments as for `KVStore`.

    Attributes:
        column_1: the next column to write.
        bucket: columns that a step attends to; 0 for the prompt pass.
    """

    def __init__(self, slots_L: Sequence[int], *, rows: int, device: torch.device, **options: Any) -> None:
        super().__init__(slots_L, rows=rows, device=device, **options)
        self.column_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.bucket = 0
        self._kernels = has_kernels(device)

    def seek(self, place: int) -> None:
        self.column_1.fill_(place)

    def update(self, key_BHTK: Tensor, value_BHTK: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As `KVStore.update`. In the prompt pass (`bucket` is 0) the columns begin at the first."""
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
