"""Recognise out-of-memory errors, and retry with smaller batches."""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from skiplab.engine.batch import IGNORE, Batch

R = TypeVar("R")
T = TypeVar("T")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, a GPU's or the machine's, could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("DefaultCPUAllocator", "bad allocation", "bad_alloc", "CUDA out of memory")
    )


def free() -> None:
    """Give back what a failed attempt held. To be called when its error is gone, whose frames hold it too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@final
class Halving:
    """Goes through rows in batches, and halves the batch for good when one does not fit into memory.

    Args:
        what: name of the work, for the warning.

    Attributes:
        rows: rows at a time.
    """

    def __init__(self, rows: int, what: str) -> None:
        self.rows = rows
        self._what = what

    def __call__(self, items: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R]]:
        """The parts of the items, and what the work makes of each.

        Raises:
            Exception: the work's own; that memory is too small even for one row.
        """
        first = 0
        while first < len(items):
            part = items[first : first + self.rows]
            try:
                found = work(part)
            except (MemoryError, RuntimeError) as error:
                if len(part) == 1 or not out_of_memory(error):
                    raise
            else:
                first += len(part)
                yield part, found
                continue
            free()
            self.rows = (len(part) + 1) // 2
            warnings.warn(f"out of memory {self._what} {len(part)} rows; goes on with {self.rows}", stacklevel=3)


def loss_in_parts(loss: Callable[[Batch], Tensor], batch: Batch, parts: int) -> Tensor:
    """A batch's mean loss over generated tokens, with the inner states of one part of its rows in memory at a time.

    The backward pass computes all parts but the last again. Beside rounding it is the loss of the whole, where that
    is a mean over tokens; what is drawn anew for each batch is drawn for each part.
    """
    pieces = batch.chunk(parts)
    if len(pieces) == 1:
        return loss(batch)
    tokens = [int((piece.target_BG != IGNORE).sum()) for piece in pieces]
    *others, last = pieces
    losses = [checkpoint(loss, piece, use_reentrant=False) for piece in others] + [loss(last)]
    weighted = [one * (count / sum(tokens)) for one, count in zip(losses, tokens, strict=True)]
    return torch.stack(weighted).sum()
