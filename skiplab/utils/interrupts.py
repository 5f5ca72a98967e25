"""Writes that Ctrl-C and termination do not cut in half."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A block during which a SIGINT or SIGTERM waits for the block's end, or for a second one, which ends the wait.

    An exception that is raised in the middle of a database's transaction can leave the database locked until the
    process ends, and one in `torch.save` becomes a `RuntimeError`. Signals that Python does not handle are not held
    back, and neither are those in threads, which get none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    waiting: list[int] = []

    def hold_back(number: int, frame: FrameType | None) -> None:
        waiting.append(number)
        if len(waiting) > 1:
            first = waiting.pop(0)
            before[signal.Signals(first)](first, frame)

    for number in before:
        signal.signal(number, hold_back)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])
