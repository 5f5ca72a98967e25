"""Time of decode steps by layer; only for a CPU, where calls are synchronous."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import final

from torch import Tensor, nn

from skiplab.benchmarking.timing import Workload
from skiplab.engine.backbone import Backbone, Context, Rotary
from skiplab.engine.decode import decode
from skiplab.engine.policy import ExitPolicy


@dataclass
class LayerTime:
    """Sums over steps, in seconds; `rows` over steps too.

    Attributes:
        layer: running the layer.
        kv: deferred keys and values that it projects.
        head: the head on the states after the layer.
    """

    rows: int = 0
    layer: float = 0.0
    kv: float = 0.0
    head: float = 0.0


@final
class TimedBackbone(Backbone):
    """Wraps a backbone and times each call."""

    def __init__(self, inner: Backbone) -> None:
        super().__init__()
        self.model = inner.model
        self.num_layers = inner.num_layers
        self.max_positions = inner.max_positions
        self.hidden_size = inner.hidden_size
        self.kv_heads = inner.kv_heads
        self.head_size = inner.head_size
        self._inner = inner
        self._latest = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self.times = [LayerTime() for _ in range(self.num_layers)]

    @property
    def layers(self) -> nn.ModuleList:
        return self._inner.layers

    def embed(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        return self._inner.embed(ids_BT, position_BT)

    def rotary(self, position_BT: Tensor) -> Rotary | None:
        return self._inner.rotary(position_BT)

    def layer(self, index: int, h_BTD: Tensor, context: Context) -> Tensor:
        self._latest = index
        start = time.perf_counter()
        h_BTD = self._inner.layer(index, h_BTD, context)
        self.times[index].layer += time.perf_counter() - start
        self.times[index].rows += len(h_BTD)
        return h_BTD

    def project_kv(self, index: int, h_BTD: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        start = time.perf_counter()
        keys_and_values = self._inner.project_kv(index, h_BTD, rotary)
        self.times[index].kv += time.perf_counter() - start
        return keys_and_values

    def head_input(self, h_BTD: Tensor) -> Tensor:
        return self._inner.head_input(h_BTD)

    def head(self, h_BTD: Tensor) -> Tensor:
        start = time.perf_counter()
        logits = self._inner.head(h_BTD)
        self.times[self._latest].head += time.perf_counter() - start
        return logits

    def reduced_head(self, ids_K: Tensor) -> Callable[[Tensor], Tensor]:
        return self._inner.reduced_head(ids_K)

    def head_weights(self) -> Iterable[Tensor]:
        return self._inner.head_weights()


@dataclass
class _Steps:
    """Counts decode steps and their time, from a batch's first token on."""

    backbone: TimedBackbone
    count: int = 0
    seconds: float = 0.0
    sums: list[LayerTime] = field(default_factory=list)
    _first: float = 0.0

    def on_step(self, step: int, index_B: Tensor, logits_BV: Tensor) -> None:
        if step == 0:
            self.backbone.reset()
            self._first = time.perf_counter()
        else:
            self.count += 1

    def finish(self) -> None:
        self.seconds += time.perf_counter() - self._first
        self.sums += self.backbone.times
        self.backbone.reset()


def layer_times(backbone: Backbone, policy: ExitPolicy, workload: Workload) -> list[dict[str, float]]:
    """For each layer, means per decode step over a workload: `rows`, and milliseconds by kind; then one for the rest.

    Its `other_ms` is everything outside layers, deferred keys and values, and head: confidences, selection, cache
    copies, the loop, and the cost of reading the clock.
    """
    timed = TimedBackbone(backbone)
    steps = _Steps(timed)
    for prompts, lengths in workload.batches():
        decode(
            timed, policy, prompts, max_new_tokens=lengths, eos_id=None, pad_id=workload.pad_id, on_step=steps.on_step
        )
        steps.finish()
    found = []
    for index in range(backbone.num_layers):
        sums = steps.sums[index :: backbone.num_layers]
        found.append(
            {
                "rows": sum(one.rows for one in sums) / steps.count,
                "layer_ms": 1e3 * sum(one.layer for one in sums) / steps.count,
                "kv_ms": 1e3 * sum(one.kv for one in sums) / steps.count,
                "head_ms": 1e3 * sum(one.head for one in sums) / steps.count,
            }
        )
    known = sum(layer["layer_ms"] + layer["kv_ms"] + layer["head_ms"] for layer in found)
    return [*found, {"other_ms": 1e3 * steps.seconds / steps.count - known}]
