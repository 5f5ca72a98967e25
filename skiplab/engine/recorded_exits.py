"""Recorded steps of rows that decide on the device when to exit.

Shapes: R rows of the cache, B rows that decode, L layers, D hidden size.
"""

from functools import partial
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.fused_layers import with_kernels
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.policy import AdaptivePolicy
from skiplab.engine.recorded_rows import RecordedRows, RowTensors, padded
from skiplab.engine.recording import Recorder
from skiplab.engine.step_runners import StepRows, one_run

# Layers that the host starts before it knows whether any row needs them, so that the device does not wait for it.
_AHEAD = 1


@final
class RecordedExits(RecordedRows):
    """Layers run on all rows until every row has exited; an exited row's state stays the same (`freeze`, `min`).

    Each recording runs a layer and decides which rows exit after it. The host learns whether any row is left one layer
    later; the layer that it then started in vain changes no state. The layers above get keys and values from the states
    in which the rows exited at once, whatever the policy's `propagation`.

    Args:
        policy: `AdaptivePolicy.on_device` must hold.
        rows: of the cache.
    """

    def __init__(
        self, backbone: Backbone, policy: AdaptivePolicy, cache: KVCache, *, rows: int, recorder: Recorder
    ) -> None:
        self._backbone = with_kernels(backbone)
        self._policy = policy
        self._cache = cache
        self._rows = rows
        self._tensors = RowTensors(backbone, cache, recorder, rows=rows, extra=2 * rows)
        self._step_R, self._depth_R = self._tensors.extra.split([rows, rows])
        self._exited_R = torch.zeros(rows, dtype=torch.bool, device=backbone.device)
        self._left = _Flags(backbone.num_layers, backbone.device)

    def run(self, h_B1D: Tensor, rows: StepRows) -> tuple[Tensor, list[int]]:
        """As `StepRunner.run`; the states are overwritten by the next step."""
        layers, count, tensors = one_run(rows).layers, len(h_B1D), self._tensors
        # Rows that do not decode count as exited.
        self._exited_R[:count], self._exited_R[count:] = False, True
        self._load(h_B1D, rows, padded(rows.steps, 2 * self._rows))
        size, seen = tensors.bounds(rows.columns)
        place = 0
        for place, layer in enumerate(layers):
            asks = layer in self._policy.exit_layers and layer != layers[-1]
            work = partial(self._layer, layer, size, seen, asks=asks)
            tensors.replay((layer, size, seen, asks), work, [tensors.h_RTD, self._exited_R, self._depth_R])
            if asks:
                self._left.send(layer)
            if place >= _AHEAD and self._ended_after(layers[place - _AHEAD]):
                break
        for layer in layers[place + 1 :]:
            tensors.replay((layer, size, seen), partial(self._propagate, layer, size, seen), [])
        return tensors.h_RTD[:count], self._depth_R[:count].tolist()

    def _ended_after(self, layer: int) -> bool:
        return layer in self._policy.exit_layers and not self._left.wait(layer)

    def _layer(self, layer: int, size: int, seen: int, *, asks: bool) -> None:
        below_R1D, exited_R = self._tensors.h_RTD[:size], self._exited_R[:size]
        run_R1D = self._backbone.layer(layer, below_R1D, self._tensors.context(size, seen))
        h_R1D = torch.where(exited_R[:, None, None], below_R1D, run_R1D)
        self._depth_R[:size].add_(~exited_R)
        if asks:
            exits_R = self._policy.exits(
                h_R1D[:, -1], below_R1D[:, -1], layer=layer, step_B=self._step_R[:size], head=self._backbone.head
            )
            exited_R.logical_or_((exits_R | exited_R).all() if self._policy.batch_policy == "min" else exits_R)
            self._left.device_L[layer] = ~exited_R.all()
        below_R1D.copy_(h_R1D)

    def _propagate(self, layer: int, size: int, seen: int) -> None:
        context = self._tensors.context(size, seen)
        key_RHK, value_RHK = self._backbone.project_kv(layer, self._tensors.h_RTD[:size], context.rotary)
        self._cache.update(key_RHK, value_RHK, layer)


@final
class _Flags:
    """Booleans by layer that the device writes and the host reads.

    Attributes:
        device_L: what the device writes.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.device_L = torch.zeros(count, dtype=torch.bool, device=device)
        on_gpu = device.type == "cuda"
        self._host_L = torch.zeros(count, dtype=torch.bool, pin_memory=on_gpu)
        self._arrived = [torch.cuda.Event() for _ in range(count)] if on_gpu else []

    def send(self, layer: int) -> None:
        """Start to copy a layer's value to the host."""
        self._host_L[layer].copy_(self.device_L[layer], non_blocking=True)
        if self._arrived:
            self._arrived[layer].record()

    def wait(self, layer: int) -> bool:
        """A layer's value, once it has arrived."""
        if self._arrived:
            self._arrived[layer].synchronize()
        return bool(self._host_L[layer])
