"""A request's outputs on their way from the scheduler's thread to the server's event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from skiplab.engine.generation import GenerationOptions
from skiplab.export.method import SavedMethod
from skiplab.export.text_stream import TextStream
from skiplab.serve.scheduler import Row, Scheduler

FinishReason = Literal["stop", "length"]


@final
@dataclass(frozen=True)
class Piece:
    """A piece of one output's text.

    Attributes:
        index: of the output in its request.
        finish_reason: of the last piece; None while the output goes on.
    """

    index: int
    text: str
    finish_reason: FinishReason | None = None


@final
class Outputs:
    """All outputs of one request; free them however the request ends.

    Args:
        prompts: token ids.
        limit: tokens per output.

    Attributes:
        tokens: generated so far.
    """

    def __init__(
        self,
        method: SavedMethod,
        scheduler: Scheduler,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        limit: int,
    ) -> None:
        self._scheduler = scheduler
        self._events: asyncio.Queue[tuple[int, int | BaseException | None]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._eos_ids = method.eos_ids(options)
        tokenizer = method.encoding.tokenizer
        numbered = [(prompt, number) for prompt in prompts for number in range(options.num_return_sequences)]
        self._rows = [
            self._row(index, prompt, number, options, limit) for index, (prompt, number) in enumerate(numbered)
        ]
        self._texts = [TextStream(tokenizer, options.stop_strings) for _ in numbered]
        self._last: list[int | None] = [None] * len(numbered)
        self._open = set(range(len(numbered)))
        self.tokens = 0

    def _row(self, index: int, prompt: Sequence[int], number: int, options: GenerationOptions, limit: int) -> Row:
        def put(event: int | BaseException | None) -> None:
            # Nobody listens on a loop that is closing.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return Row(prompt, replace(options, stop_strings=()), limit, number, on_token=put, on_end=put)

    def submit(self) -> None:
        """Queue all outputs.

        Raises:
            QueueFullError: there is no room for them.
        """
        self._scheduler.submit(self._rows)

    def free(self) -> None:
        """Cancel rows that still decode."""
        for row in self._rows:
            row.cancel()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces of all outputs, mixed as they come.

        Raises:
            BaseException: what went wrong while decoding.
        """
        while self._open:
            index, event = await self._events.get()
            if isinstance(event, BaseException):
                raise event
            if index not in self._open:
                continue
            if event is None:
                yield self._final(index)
                continue
            self.tokens += 1
            self._last[index] = event
            text = self._texts[index].push(event)
            if self._texts[index].stopped:
                self._rows[index].cancel()
                yield self._final(index, text)
            elif text:
                yield Piece(index, text)

    def _final(self, index: int, text: str = "") -> Piece:
        self._open.discard(index)
        stopped = self._texts[index].stopped or self._last[index] in self._eos_ids
        return Piece(index, text + self._texts[index].end(), "stop" if stopped else "length")
