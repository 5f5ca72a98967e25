"""A request that an engine decodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from skiplab.engine.live_rows import LiveRow
from skiplab.engine.request import RowRequest
from skiplab.engine.row_choice import Chooser, stopped


@final
@dataclass(eq=False)
class Handle:
    """A submitted request.

    Attributes:
        tokens: generated so far.
        depths: layers that each of them ran.
        done: whether it has ended, or was cancelled.
    """

    request: RowRequest
    row: LiveRow
    on_token: Callable[[int], None] | None = None
    done: bool = False

    @property
    def tokens(self) -> list[int]:
        return self.row.tokens

    @property
    def depths(self) -> list[int]:
        return self.row.depths

    @property
    def ids(self) -> list[int]:
        """Prompt and output."""
        return [*self.request.prompt, *self.tokens]

    @property
    def chooser(self) -> Chooser:
        """Chooses its next token."""
        choice = self.request.choice
        return Chooser(choice, self.ids if choice else (), self.row.step)

    @property
    def at_end(self) -> bool:
        """Whether its last token ends it."""
        request, tokens = self.request, self.tokens
        if tokens[-1] in request.eos_ids or len(tokens) == request.limit:
            return True
        return request.choice is not None and stopped(request.choice, self.ids)
