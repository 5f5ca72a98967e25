"""Lazy projection of keys and values.

Shapes: L layers, B rows, S columns, N deferred positions, D hidden size.
"""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.engine.backbone import Backbone, Rotary
from skiplab.engine.kv_cache import KVCache, exchange


@final
class Deferred:
    """Hidden states of exited rows, whose keys and values the layers above the exit have not projected yet.

    All these layers project the state in which the row exited (CALM, arXiv 2207.07061, section 3.2). A layer does so
    when a later step runs it on the row, for all deferred steps of the row.

    Args:
        rows, columns: the cache's.
    """

    def __init__(self, backbone: Backbone, cache: KVCache, *, rows: int, columns: int) -> None:
        self._backbone = backbone
        self._cache = cache
        self._columns = columns
        self._layer_L = torch.arange(backbone.num_layers)
        # On the host, because the exits are known there.
        self._deferred_LBS = torch.zeros(backbone.num_layers, rows, columns, dtype=torch.bool)
        self._states_BSD: Tensor | None = None
        self._position_BS = torch.zeros(rows, columns, dtype=torch.int64)
        self._table: Rotary | None = None

    def defer(self, h_B1D: Tensor, above_B: Tensor, columns: Sequence[int], positions: Sequence[int]) -> None:
        """Keep the last states of a step's rows for the layers from `above_B` on.

        Args:
            above_B: per row, the first layer that did not run.
            columns, positions: the cache columns and the token positions of the states.
        """
        if self._states_BSD is None:
            self._states_BSD = h_B1D.new_empty(self._deferred_LBS.shape[1], self._columns, h_B1D.shape[-1])
        row_B, column_B = torch.arange(len(h_B1D)), torch.tensor(columns)
        self._states_BSD[row_B, column_B] = h_B1D[:, 0]
        self._position_BS[row_B, column_B] = torch.tensor(positions)
        self._deferred_LBS[:, row_B, column_B] = self._layer_L[:, None] >= above_B

    def flush(self, layer: int, rows: Tensor | None = None) -> None:
        """Project a layer's deferred keys and values for the rows on which it is about to run; None is all rows."""
        deferred_BS = self._deferred_LBS[layer] if rows is None else self._deferred_LBS[layer, rows]
        if self._states_BSD is None or not deferred_BS.any():
            return
        row_N, column_N = deferred_BS.nonzero(as_tuple=True)
        row_N = row_N if rows is None else rows[row_N]
        self._deferred_LBS[layer, row_N, column_N] = False
        position_N = self._position_BS[row_N, column_N]
        states_N1D = self._states_BSD[row_N, column_N][:, None]
        key_N1, value_N1 = self._backbone.project_kv(layer, states_N1D, self._rotary(position_N))
        self._cache.put(layer, row_N, column_N, key_N1[:, :, 0], value_N1[:, :, 0])

    def _rotary(self, position_N: Tensor) -> Rotary | None:
        """The rotations of single positions, which are computed once for all positions."""
        if self._table is None:
            self._table = self._backbone.rotary(torch.arange(self._columns, device=self._backbone.device)[None])
        return self._table and self._table.map(lambda part: part[0, position_N][:, None])

    def grow(self, columns: int) -> None:
        """Make room for more columns."""
        more = columns - self._columns
        self._deferred_LBS = F.pad(self._deferred_LBS, (0, more))
        self._position_BS = F.pad(self._position_BS, (0, more))
        if self._states_BSD is not None:
            self._states_BSD = F.pad(self._states_BSD, (0, 0, 0, more))
        self._columns, self._table = columns, None

    def exchange(self, rows: tuple[int, int], filled: tuple[int, int]) -> None:
        """Swap two rows, as `KVCache.exchange` does."""
        for per_row in (*self._deferred_LBS, self._position_BS):
            exchange(per_row, rows, filled, dim=0)
        for row, length in zip(rows, reversed(filled), strict=True):
            self._deferred_LBS[:, row, length:] = False
        if self._states_BSD is not None:
            exchange(self._states_BSD, rows, filled, dim=0)

    def drop(self, rows: int) -> None:
        """Forget all rows from index `rows` on."""
        self._deferred_LBS[:, rows:] = False
