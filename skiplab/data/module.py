"""From a task's examples to batches, on Lightning's terms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, final

import lightning as L
import torch
from torch.utils.data import DataLoader, Sampler

from skiplab.batch import Batch, collate
from skiplab.data.encoding import Encoding, Template
from skiplab.data.pairs import Pair, Pairs, digest, encode
from skiplab.data.source import Source
from skiplab.files import fingerprint

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Item:
    """One prompt with all its references.

    Attributes:
        prompt_ids: the prompt's tokens, closed by begin-of-sequence.
    """

    prompt: str
    references: list[str]
    prompt_ids: list[int]


@final
class LengthGrouped(Sampler[int]):
    """A shuffle in which each batch holds examples of like length, to spare padding.

    Batches are formed within windows of `window` batches and shuffled.

    Args:
        lengths: (prompt, target) tokens per example. Like prompts come first: a padded prompt column costs
            all layers, a padded target column only those of its step.
    """

    def __init__(self, lengths: Sequence[tuple[int, int]], batch_size: int, seed: int, window: int = 64) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._window = window * batch_size
        self._seed = seed
        self._epoch = 0
        self._first = 0

    def start_at(self, batch: int) -> None:
        """The next pass, and no other, begins at its batch of this number."""
        self._first = batch

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        first, self._first = self._first * self._batch_size, 0
        yield from islice(self._order(), first, None)

    def _order(self) -> Iterator[int]:
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
class TrainingLoader(DataLoader[Batch]):
    """A loader over `LengthGrouped` whose state is its place in the pass under way; Lightning keeps it in checkpoints.

    It takes nothing from torch's generator, so that a training that goes on draws what it would have drawn.
    """

    def __init__(self, pairs: Pairs, sampler: LengthGrouped, batch_size: int, pad_id: int) -> None:
        super().__init__(
            pairs,  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=partial(_collate_pairs, pad_id=pad_id),
            generator=torch.Generator(),
        )
        self._first = self._served = 0

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._served}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._first = state_dict["batches"]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._served, self._first = self._first, 0
        assert isinstance(self.sampler, LengthGrouped)
        self.sampler.start_at(self._served)
        for batch in super().__iter__():
            self._served += 1
            yield batch


@final
class TextData(L.LightningDataModule):
    """A task's splits as token ids, teacher-forced batches and test items.

    Args:
        source: the task.
        tokenizer: a pretrained model's; None is the task's own.
        template: what stands around prompts.
        batch_size: examples per training batch.
        max_new_tokens: longest output; longer references are refused.
        limit: keep the first so many items of each split; None keeps all.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        max_new_tokens: int,
        limit: int | None = None,
        tokenizer: "PreTrainedTokenizerFast | None" = None,
        template: Template | None = None,
    ) -> None:
        super().__init__()
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 item per split, got {limit}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.source = source
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self._limit = limit
        self._tokenizer = tokenizer
        self._template = template or Template()

    @cached_property
    def splits(self) -> "DatasetDict":
        """The examples as text."""
        splits = self.source.load()
        if self._limit is not None:
            for name, split in splits.items():
                splits[name] = split.select(range(min(self._limit, len(split))))
        return splits

    @cached_property
    def encoding(self) -> Encoding:
        """Tokenizer and template."""
        tokenizer = self._tokenizer or self.source.tokenizer(self.splits)
        return Encoding(tokenizer, self._template, pretrained=self._tokenizer is not None)

    @property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        return self.encoding.tokenizer

    @property
    def pad_id(self) -> int:
        return self.encoding.pad_id

    @property
    def eos_id(self) -> int:
        return self.encoding.eos_id

    @property
    def bos_id(self) -> int:
        return self.encoding.bos_id

    @cached_property
    def digest(self) -> str:
        """A hash of every prompt and reference, split by split."""
        return fingerprint(**self._digests)

    @cached_property
    def train_pairs(self) -> Pairs:
        return self._pairs("train")

    @cached_property
    def valid_pairs(self) -> Pairs:
        return self._pairs("valid")

    @cached_property
    def test_pairs(self) -> Pairs:
        return self._pairs("test")

    def items(self, split: str) -> list[Item]:
        """The prompts of a split, each with all its references."""
        rows = self.splits[split]
        prompts = self.encoding.prompts(rows["prompt"][:])
        return [
            Item(prompt, references, ids)
            for prompt, references, ids in zip(rows["prompt"], rows["references"], prompts, strict=True)
        ]

    def check(self, max_positions: int) -> None:
        """Refuse examples that the backbone's positions or the output limit cannot hold.

        Raises:
            ValueError: the message names the split and the sizes.
        """
        for name, pairs in (("train", self.train_pairs), ("valid", self.valid_pairs), ("test", self.test_pairs)):
            prompt, target = (max(counts) for counts in zip(*pairs.lengths, strict=True))
            if name != "test" and target > self.max_new_tokens:
                raise ValueError(
                    f"the longest {name} reference has {target} tokens, max_new_tokens is "
                    f"{self.max_new_tokens}; raise it, cut references with template.longest_target, or drop such ones"
                )
            longest = max(target, self.max_new_tokens)
            if prompt + longest - 1 > max_positions:
                raise ValueError(
                    f"the longest {name} prompt has {prompt} tokens and outputs or references up to {longest}, the "
                    f"backbone has {max_positions} positions; raise backbone.max_positions, cut the data with "
                    "template.longest_prompt and template.longest_target, or shorten it"
                )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training batches, shuffled by torch's seed of the moment."""
        sampler = LengthGrouped(self.train_pairs.lengths, self.batch_size, torch.initial_seed())
        return TrainingLoader(self.train_pairs, sampler, self.batch_size, self.pad_id)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.valid_pairs)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test_pairs)

    def _loader(self, pairs: Pairs) -> DataLoader[Batch]:
        return DataLoader(
            pairs,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            collate_fn=partial(_collate_pairs, pad_id=self.pad_id),
            generator=torch.Generator(),
        )

    def _pairs(self, split: str) -> Pairs:
        key = fingerprint(rows=self._digests[split], **self.encoding.identity)
        return encode(self.splits[split], self.encoding, name=split, key=key)

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {str(name): digest(split) for name, split in self.splits.items()}


def _collate_pairs(pairs: Sequence[Pair], pad_id: int) -> Batch:
    prompts, targets = zip(*pairs, strict=True)
    return collate(prompts, targets, pad_id)
