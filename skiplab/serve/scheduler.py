"""Rows that clients ask for, decoded by an engine in a thread of its own."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from skiplab.engine.continuous import Engine, Handle, QueueFullError
from skiplab.engine.generation import GenerationOptions
from skiplab.export.method import SavedMethod
from skiplab.serve.limits import Limits


@final
@dataclass(eq=False)
class Row:
    """One output to be generated.

    Args:
        prompt: token ids.
        number: of the output among those of its prompt.
        on_token: called in the scheduler's thread with each token.
        on_end: called there once, when the row has ended; with what went wrong, or None.
    """

    prompt: Sequence[int]
    options: GenerationOptions
    limit: int
    number: int
    on_token: Callable[[int], None]
    on_end: Callable[[BaseException | None], None]
    cancelled: bool = False

    def cancel(self) -> None:
        """Have the row leave before the next step; nobody waits for it any longer."""
        self.cancelled = True


@final
class Scheduler:
    """Decodes rows as they come: each joins those under way with the next step, whatever its options."""

    def __init__(self, method: SavedMethod, limits: Limits) -> None:
        self._method = method
        self._limits = limits
        self._engine = self._new_engine()
        self._arrived: deque[Row] = deque()
        self._handles: dict[Row, Handle] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="skiplab-decode", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> None:
        """Take rows, all or none.

        Raises:
            QueueFullError: there is no room for them.
        """
        with self._changed:
            # Free slots are no places in the queue.
            free = self._limits.max_rows - self.active
            if self._closed or self.waiting + len(rows) > self._limits.max_waiting + max(0, free - self.waiting):
                raise QueueFullError(f"{self.waiting} of {self._limits.max_waiting} places in the queue are taken")
            self._arrived.extend(rows)
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return len(self._arrived) + self._engine.waiting

    @property
    def active(self) -> int:
        """Rows that are decoded."""
        return self._engine.active

    @property
    def alive(self) -> bool:
        """Whether it still decodes."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """End all rows, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _new_engine(self) -> Engine:
        return self._method.engine(slots=self._limits.max_rows, chunk=self._limits.prompt_chunk)

    def _work(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._arrived or self._handles)
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - one failure must spare the rows that come later
                failed, self._handles = list(self._handles), {}
                # What the failed step left behind is not to be trusted.
                self._engine = self._new_engine()
                for row in failed:
                    row.on_end(error.with_traceback(None))
        for row in (*self._handles, *self._arrived):
            row.on_end(InterruptedError("the server is closing"))

    def _step(self) -> None:
        # A row moves from one queue to the other at once, so that none is counted twice.
        with self._changed:
            while self._arrived:
                self._begin(self._arrived.popleft())
        for row in [row for row in self._handles if row.cancelled]:
            self._engine.cancel(self._handles[row])
        self._engine.step()
        for row in [row for row, handle in self._handles.items() if handle.done]:
            del self._handles[row]
            row.on_end(None)

    def _begin(self, row: Row) -> None:
        try:
            request = self._method.row(row.prompt, row.options, number=row.number, limit=row.limit)
            self._handles[row] = self._engine.submit(request, on_token=_unless_cancelled(row))
        except Exception as error:  # noqa: BLE001 - a row that cannot be decoded must spare the others
            row.on_end(error.with_traceback(None))


def _unless_cancelled(row: Row) -> Callable[[int], None]:
    return lambda token: None if row.cancelled else row.on_token(token)
