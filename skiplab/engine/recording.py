"""Recording work on tensors at fixed addresses."""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor


@final
class Recorder:
    """Records work as CUDA graphs, which a GPU replays without work on the host; elsewhere work runs as it is.

    Args:
        record: whether a GPU records; otherwise work runs as it is, so that a profiler sees it.

    Attributes:
        count: number of recordings made.
    """

    def __init__(self, device: torch.device, *, record: bool = True) -> None:
        self.count = 0
        self._pool = torch.cuda.graph_pool_handle() if record and device.type == "cuda" else None

    def record(self, work: Callable[[], None], changed: Sequence[Tensor]) -> Callable[[], None]:
        """A function that does the work again each time it is called.

        Args:
            work: neither waits for the device nor depends on anything but tensors at fixed addresses.
            changed: the tensors that the work reads and changes. Recording leaves them as they are.
        """
        if self._pool is None:
            return work
        self.count += 1
        before = [tensor.clone() for tensor in changed]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Libraries allocate workspaces at their first call, which is not allowed during capture.
            work()
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph.replay
