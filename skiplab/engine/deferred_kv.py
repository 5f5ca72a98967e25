"""Lazy projection of keys and values.

Shapes: L layers, B rows, S decode steps, N deferred positions, D hidden size, K head size.
"""

from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone, Rotary
from skiplab.engine.kv_cache import KVCache


@final
class Deferred:
    """Hidden states whose keys and values are not projected yet: of the layers that a step did not run on a row.

    All those layers would project the state in which the row exited (CALM, arXiv 2207.07061, section
    3.2). A layer does so when a later step runs it on the row, for all the deferred steps of the row.

    Args:
        rows: rows of the batch.
        columns: columns before the first decode step.
        steps: decode steps at most.
    """

    def __init__(self, backbone: Backbone, cache: KVCache, *, rows: int, columns: int, steps: int) -> None:
        self._backbone = backbone
        self._cache = cache
        self._columns = columns
        self._steps = steps
        self._layer_L = torch.arange(backbone.num_layers)
        # On the host, where the exits are known.
        self._deferred_LBS = torch.zeros(backbone.num_layers, rows, steps, dtype=torch.bool)
        self._states_BSD: Tensor | None = None
        self._rotary_BSK: Rotary | None = None

    def defer(self, h_B1D: Tensor, above_B: Tensor, step: int, rotary: Rotary | None) -> None:
        """Keep a step's last states for the layers from `above_B` on, each row's first that it did not run.

        Args:
            rotary: of the step's positions.
        """
        if self._states_BSD is None:
            self._states_BSD = h_B1D.new_empty(len(h_B1D), self._steps, h_B1D.shape[-1])
            self._rotary_BSK = rotary and rotary.map(
                lambda part: part.new_empty(len(part), self._steps, part.shape[-1])
            )
        self._states_BSD[:, step - 1] = h_B1D[:, 0]
        if rotary is not None and self._rotary_BSK is not None:
            for kept, part in zip(self._rotary_BSK, rotary, strict=True):
                kept[:, step - 1] = part[:, 0]
        self._deferred_LBS[:, :, step - 1] = self._layer_L[:, None] >= above_B

    def flush(self, layer: int, rows: Tensor | None = None) -> None:
        """Project a layer's deferred keys and values for rows it is about to run on; None means all rows."""
        deferred_BS = self._deferred_LBS[layer] if rows is None else self._deferred_LBS[layer, rows]
        if self._states_BSD is None or not deferred_BS.any():
            return
        row_N, step_N = deferred_BS.nonzero(as_tuple=True)
        row_N = row_N if rows is None else rows[row_N]
        self._deferred_LBS[layer, row_N, step_N] = False
        rotary_N1 = self._rotary_BSK and self._rotary_BSK.map(lambda part: part[row_N, step_N][:, None])
        key_N1, value_N1 = self._backbone.project_kv(layer, self._states_BSD[row_N, step_N][:, None], rotary_N1)
        self._cache.put(layer, row_N, self._columns + step_N, key_N1[:, :, 0], value_N1[:, :, 0])

    def keep(self, source: list[int]) -> None:
        """Keep rows as `KVCache.keep` does."""
        self._deferred_LBS = self._deferred_LBS[:, source]
        if self._states_BSD is not None:
            self._states_BSD = self._states_BSD[source]
        if self._rotary_BSK is not None:
            self._rotary_BSK = self._rotary_BSK.map(lambda part: part[source])
