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
    """Whether an error is an out-of-memory error, of a GPU or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("DefaultCPUAllocator", "bad allocation", "bad_alloc", "CUDA out of memory")
    )


def free() -> None:
    """Free the memory of a failed attempt. Call it after the error is gone, because its frames hold tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@final
class Halving:
    """Processes rows in batches; when a batch does not fit into memory, it halves the batch size from then on.

    Args:
        what: name of the work, for the warning.

    Attributes:
        rows: the current batch size.
    """

    def __init__(self, rows: int, what: str) -> None:
        self.rows = rows
        self._what = what

    def __call__(self, items: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R]]:
        """Yield each batch of items with the result of `work`.

        Raises:
            Exception: raised by `work`; or out of memory with a single row.
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
            warnings.warn(f"out of memory {self._what} {len(part)} rows; retrying with {self.rows}", stacklevel=3)


def loss_in_parts(loss: Callable[[Batch], Tensor], batch: Batch, parts: int) -> Tensor:
    """A batch's mean loss over generated tokens, with the activations of one part of its rows in memory at a time.

    The backward pass recomputes all parts except the last. For a loss that is a mean over tokens the result equals
    the loss of the whole batch, except for rounding; random draws per batch become draws per part.
    """
    pieces = batch.chunk(parts)
    if len(pieces) == 1:
        return loss(batch)
    tokens = [int((piece.target_BG != IGNORE).sum()) for piece in pieces]
    *others, last = pieces
    losses = [checkpoint(loss, piece, use_reentrant=False) for piece in others] + [loss(last)]
    weighted = [one * (count / sum(tokens)) for one, count in zip(losses, tokens, strict=True)]
    return torch.stack(weighted).sum()
