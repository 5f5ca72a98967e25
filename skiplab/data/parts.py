"""Samplers: the examples of each step's batch, and the part that a rank processes at a time."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, final

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from skiplab.data.pairs import Pair, Pairs
from skiplab.engine.batch import Batch, Part, collate


class PartOf(NamedTuple):
    """The examples of a `Part`, and its weight."""

    indices: Sequence[int]
    weight: float


@final
class LengthGrouped(Sampler[int]):
    """A shuffle in which each batch holds examples of similar length, to save padding.

    Batches are formed within windows of `window` batches and shuffled.

    Args:
        lengths: (prompt, target) tokens per example. Prompt length is sorted by first: a padded prompt column costs
            all layers, a padded target column only the layers of its step.
    """

    def __init__(self, lengths: Sequence[tuple[int, int]], batch_size: int, seed: int, window: int = 64) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._window = window * batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
        shuffled = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(shuffled), self._window):
            window = sorted(shuffled[start : start + self._window], key=lambda index: self._lengths[index])
            batches = [window[at : at + self._batch_size] for at in range(0, len(window), self._batch_size)]
            # A short batch stays last, so that the loader's slices are these batches.
            order = torch.randperm(len(window) // self._batch_size, generator=generator).tolist()
            for batch in (*order, *range(len(order), len(batches))):
                yield from batches[batch]


@final
class StepParts(Sampler[PartOf]):
    """A rank's parts of each step's batch. In a sorted batch, every part has a similar length distribution.

    The examples of a step do not depend on the number of ranks and parts.

    Args:
        order: the order of the examples; each step takes `batch_size` of them.
        lengths: (prompt, target) tokens per example.
        accumulate: parts of a batch that a rank processes one after another.
    """

    def __init__(
        self,
        order: LengthGrouped,
        lengths: Sequence[tuple[int, int]],
        batch_size: int,
        ranks: int = 1,
        rank: int = 0,
        accumulate: int = 1,
    ) -> None:
        self._order = order
        self._lengths = lengths
        self._batch_size = batch_size
        self._ranks = ranks
        self._rank = rank
        self._accumulate = accumulate
        self._first = 0

    def start_at(self, part: int) -> None:
        """Start only the next epoch at this part."""
        self._first = part

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch_size) * self._accumulate

    def __iter__(self) -> Iterator[PartOf]:
        first, self._first = self._first, 0
        yield from itertools.islice(self._parts(), first, None)

    def _parts(self) -> Iterator[PartOf]:
        parts = self._ranks * self._accumulate
        for batch in _batched(self._order, self._batch_size):
            for turn in range(self._accumulate):
                own = batch[turn * self._ranks + self._rank :: parts]
                weight = parts * self._tokens(own) / self._tokens(batch)
                yield PartOf(own or batch[:1], weight)

    def _tokens(self, indices: Iterable[int]) -> int:
        return sum(self._lengths[index][1] for index in indices)


@final
class BatchParts(Sampler[PartOf]):
    """Round-robin shard of the batches of `count` examples in order; every rank gets the same number of batches."""

    def __init__(self, count: int, batch_size: int, ranks: int = 1, rank: int = 0) -> None:
        self._batches = list(_batched(range(count), batch_size))
        self._ranks = ranks
        self._rank = rank

    def __len__(self) -> int:
        return -(-len(self._batches) // self._ranks)

    def __iter__(self) -> Iterator[PartOf]:
        for first in range(0, len(self._batches), self._ranks):
            turn = self._batches[first : first + self._ranks]
            yield PartOf(turn[self._rank], 1.0) if self._rank < len(turn) else PartOf(turn[0], 0.0)


@final
class Parts(Dataset[Part]):
    """A split, indexed by the parts that a sampler yields."""

    def __init__(self, pairs: Pairs, pad_id: int) -> None:
        self._pairs = pairs
        self._pad_id = pad_id

    def __getitem__(self, index: PartOf) -> Part:
        return Part(collate_pairs(self._pairs.__getitems__(index.indices), self._pad_id), index.weight)


@final
class TrainingLoader(DataLoader[Part]):
    """A loader over `StepParts` whose state is its position in the current pass; Lightning saves it in checkpoints.

    It does not advance torch's global RNG, so that a resumed training draws the same random numbers.
    """

    def __init__(self, pairs: Pairs, sampler: StepParts, pad_id: int) -> None:
        super().__init__(
            Parts(pairs, pad_id),
            batch_size=None,
            sampler=sampler,
            generator=torch.Generator(),  # type: ignore[arg-type]
        )
        self._steps = sampler
        self._first = self._served = 0

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._served}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._first = state_dict["batches"]

    def __iter__(self) -> Iterator[Part]:  # type: ignore[override]
        self._served, self._first = self._first, 0
        self._steps.start_at(self._served)
        for part in super().__iter__():
            self._served += 1
            yield part


def collate_pairs(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """Pairs of token ids to a batch."""
    prompts, targets = zip(*pairs, strict=True)
    return collate(prompts, targets, pad_id)


def _batched(indices: Iterable[int], size: int) -> Iterator[list[int]]:
    """Consecutive lists of `size`, the last one perhaps shorter."""
    remaining = iter(indices)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
