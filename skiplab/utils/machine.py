"""What the machine offers to processes that share it."""

import os

import psutil


def physical_cores() -> int:
    """Cores that this process may use; two hardware threads of one core count once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


def available_memory() -> int:
    """Bytes that new processes can use without swapping."""
    return psutil.virtual_memory().available
