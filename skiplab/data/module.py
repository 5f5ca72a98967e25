"""From a task's examples to batches, on Lightning's terms."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, final

import lightning as L
import torch
from torch.utils.data import DataLoader, Sampler

from skiplab.batch import Batch, collate
from skiplab.data.source import Source

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

Pair = tuple[list[int], list[int]]


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
class TextData(L.LightningDataModule):
    """A task's splits as token ids, teacher-forced batches and test items.

    Args:
        source: the task.
        batch_size: examples per training batch.
        max_new_tokens: longest output; longer references are refused.
        limit: keep the first so many items of each split; None keeps all.
    """

    def __init__(self, source: Source, *, batch_size: int, max_new_tokens: int, limit: int | None = None) -> None:
        super().__init__()
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 item per split, got {limit}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.source = source
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self._limit = limit

    @cached_property
    def splits(self) -> "DatasetDict":
        """The examples as text."""
        splits = self.source.load()
        if self._limit is not None:
            for name, split in splits.items():
                splits[name] = split.select(range(min(self._limit, len(split))))
        return splits

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        return self.source.tokenizer(self.splits)

    @property
    def pad_id(self) -> int:
        return _special(self.tokenizer, "pad")

    @property
    def eos_id(self) -> int:
        return _special(self.tokenizer, "eos")

    @property
    def bos_id(self) -> int:
        return _special(self.tokenizer, "bos")

    @cached_property
    def digest(self) -> str:
        """A hash of every prompt and reference, split by split."""
        text = json.dumps({name: split.to_dict() for name, split in self.splits.items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def train_pairs(self) -> list[Pair]:
        return self._pairs(self.splits["train"])

    @cached_property
    def valid_pairs(self) -> list[Pair]:
        return self._pairs(self.splits["valid"])

    @cached_property
    def test_pairs(self) -> list[Pair]:
        return self._pairs(self.splits["test"])

    def items(self, split: str) -> list[Item]:
        """The prompts of a split, each with all its references."""
        rows = self.splits[split]
        prompts = self._prompt_ids(rows["prompt"])
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
            prompt = max(len(prompt) for prompt, _ in pairs)
            target = max(len(target) for _, target in pairs)
            if name != "test" and target > self.max_new_tokens:
                raise ValueError(
                    f"the longest {name} reference has {target} tokens, max_new_tokens is "
                    f"{self.max_new_tokens}; raise it or drop such references"
                )
            longest = max(target, self.max_new_tokens)
            if prompt + longest - 1 > max_positions:
                raise ValueError(
                    f"the longest {name} prompt has {prompt} tokens and outputs or references up to {longest}, the "
                    f"backbone has {max_positions} positions; raise backbone.max_positions or shorten the data"
                )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training batches, shuffled by torch's seed of the moment."""
        lengths = [(len(prompt), len(target)) for prompt, target in self.train_pairs]
        return self._loader(self.train_pairs, LengthGrouped(lengths, self.batch_size, torch.initial_seed()))

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.valid_pairs)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.test_pairs)

    def _loader(self, pairs: list[Pair], sampler: Sampler[int] | None = None) -> DataLoader[Batch]:
        return DataLoader(
            pairs,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=partial(_collate_pairs, pad_id=self.pad_id),
        )

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        return [[*ids, self.bos_id] for ids in encoded]

    def _pairs(self, rows: "Dataset") -> list[Pair]:
        prompts = self._prompt_ids(rows["prompt"])
        counts = [len(references) for references in rows["references"]]
        texts = [text for references in rows["references"] for text in references]
        targets = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        return [
            (prompt, [*next(targets), self.eos_id])
            for prompt, count in zip(prompts, counts, strict=True)
            for _ in range(count)
        ]


def _collate_pairs(pairs: Sequence[Pair], pad_id: int) -> Batch:
    prompts, targets = zip(*pairs, strict=True)
    return collate(prompts, targets, pad_id)


def _special(tokenizer: "PreTrainedTokenizerFast", kind: str) -> int:
    index = getattr(tokenizer, f"{kind}_token_id")
    if index is None:
        raise ValueError(f"the tokenizer has no {kind} token; set one before use")
    return index
