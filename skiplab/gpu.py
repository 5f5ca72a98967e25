"""What a device can run."""

from functools import cache
from importlib.util import find_spec

import torch


@cache
def has_kernels(device: torch.device) -> bool:
    """Whether it is a GPU that the kernels in Triton (`gpu_kernels.py`) run on."""
    return device.type == "cuda" and find_spec("triton") is not None
