"""What the machine offers."""

import os

from skiplab.utils.machine import available_memory, physical_cores


def test_cores_and_memory_are_those_of_this_machine() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
