"""How many processes share the settings of a comparison."""

import torch

from skiplab.comparison.facts import parameters
from skiplab.comparison.prepare import Prepared
from skiplab.utils.machine import available_memory, physical_cores

# A process with its libraries, and per weight: model, gradient, Adam's two moments, a teacher and a copy, with as much
# again for activations.
_PROCESS_BYTES = 2 * 2**30
_BYTES_PER_WEIGHT = 48


def worker_count(prepared: Prepared) -> int:
    """The configured number, or one process per GPU, or per `threads` physical cores, as far as memory allows."""
    config = prepared.config
    if config.workers is not None:
        return config.workers
    if prepared.trainer.processes > 1:
        return 1
    if prepared.device.type == "cuda":
        return torch.cuda.device_count()
    by_memory = available_memory() // (_PROCESS_BYTES + _BYTES_PER_WEIGHT * parameters(prepared))
    return max(1, min(physical_cores() // config.threads, by_memory))
