"""Whether a device can run the Triton kernels."""

import warnings
from functools import cache
from importlib.util import find_spec

import torch

# Of the GPUs that the kernels were tried on and Triton supports.
_CAPABILITY = (8, 0)


@cache
def has_kernels(device: torch.device) -> bool:
    """Whether a device is a GPU that runs the Triton kernels (`triton_ops.py`); warns if Triton cannot compile them."""
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < _CAPABILITY:
        return False
    from skiplab.kernels.triton_ops import layer_norm

    ones = torch.ones(16, device=device)
    try:
        layer_norm(ones, ones, ones, 1e-5)
    except Exception as error:  # noqa: BLE001 - whatever a compiler raises
        warnings.warn(
            f"decoding on {device} runs without the kernels for single rows, and slower: Triton fails with "
            f"{type(error).__name__}: {error}. It needs a C compiler such as gcc",
            stacklevel=2,
        )
        return False
    return True
