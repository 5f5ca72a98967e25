"""Which requests decode together, in a thread of its own."""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from skiplab.engine.generation import GenerationOptions
from skiplab.export.method import SavedMethod

# How long the first request of a batch waits for others.
_GATHER_SECONDS = 0.002


class QueueFullError(Exception):
    """There is no room for another row."""


@final
@dataclass(eq=False)
class Row:
    """One output to be generated.

    Args:
        prompt: token ids.
        options: what the row shares with those that it may be batched with; its seed and limit are apart.
        number: of the output among those of its prompt.
        on_token: called in the scheduler's thread with each token.
        on_end: called there once, when the row has ended; with what went wrong, or None.
    """

    prompt: Sequence[int]
    options: GenerationOptions
    limit: int
    seed: int | None
    number: int
    on_token: Callable[[int], None]
    on_end: Callable[[BaseException | None], None]
    submitted: float = field(default_factory=time.perf_counter)
    cancelled: bool = False

    def cancel(self) -> None:
        """Have the row leave with the next step; nobody waits for it any longer."""
        self.cancelled = True


class Scheduler(ABC):
    """Decodes rows as they come."""

    @abstractmethod
    def submit(self, rows: Sequence[Row]) -> None:
        """Take rows, all or none.

        Raises:
            QueueFullError: there is no room for them.
        """

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Rows that wait."""

    @property
    @abstractmethod
    def active(self) -> int:
        """Rows that are decoded."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it still decodes."""

    @abstractmethod
    def close(self) -> None:
        """End all rows, and the thread."""


@final
class StaticBatches(Scheduler):
    """Rows that wait together and have the same options are one batch; those that come later wait for its end.

    Args:
        max_rows: of a batch.
        max_waiting: rows that may wait.
    """

    def __init__(self, method: SavedMethod, *, max_rows: int, max_waiting: int) -> None:
        self._method = method
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._waiting: deque[Row] = deque()
        self._active: dict[int, Row] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="skiplab-decode", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> None:
        with self._changed:
            if self._closed or len(self._waiting) + len(rows) > self._max_waiting:
                raise QueueFullError(f"{len(self._waiting)} of {self._max_waiting} places in the queue are taken")
            self._waiting.extend(rows)
            self._changed.notify()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while rows := self._next():
            error: BaseException | None = None
            self._active = dict(enumerate(rows))
            try:
                self._decode(rows)
            except Exception as raised:  # noqa: BLE001 - one batch's failure must spare the next
                error = raised.with_traceback(None)
            left, self._active = list(self._active.values()), {}
            for row in left:
                row.on_end(error)
        for row in self._waiting:
            row.on_end(InterruptedError("the server is closing"))

    def _next(self) -> list[Row]:
        """The next batch; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if not self._closed and len(self._waiting) < self._max_rows:
                self._changed.wait_for(
                    lambda: self._closed or len(self._waiting) >= self._max_rows, timeout=_GATHER_SECONDS
                )
            if self._closed:
                return []
            first = self._waiting[0]
            found = [row for row in self._waiting if row.options == first.options][: self._max_rows]
            taken = set(map(id, found))
            self._waiting = deque(row for row in self._waiting if id(row) not in taken)
        return found

    def _decode(self, rows: list[Row]) -> None:
        request = self._method.request(
            [row.prompt for row in rows], rows[0].options, [row.number for row in rows],
            limits=[row.limit for row in rows], seeds=[row.seed for row in rows],
        )  # fmt: skip
        counts = [0] * len(rows)
        steps = self._method.steps(request)
        gone: set[int] | None = None
        while True:
            try:
                step = steps.send(gone)
            except StopIteration:
                return
            for index, token in zip(step.index_A.tolist(), step.token_A.tolist(), strict=True):
                row = self._active.get(index)
                # On recorded steps rows that have ended come along.
                if row is None or row.cancelled:
                    continue
                counts[index] += 1
                row.on_token(token)
                if token in request.eos_ids or counts[index] == row.limit:
                    del self._active[index]
                    row.on_end(None)
            gone = {index for index, row in self._active.items() if row.cancelled or self._closed}
            for index in gone:
                self._active.pop(index).on_end(None)


def shared(options: GenerationOptions) -> GenerationOptions:
    """What rows must have in common to be decoded together: all but seed, limit, number of outputs, and stop strings,
    which are looked for in the text."""
    return replace(options, seed=None, max_new_tokens=None, num_return_sequences=1, stop_strings=())
