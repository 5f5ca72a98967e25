"""The LightningDataModule: from a task's examples to batches."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import lightning as L
import torch
from torch.utils.data import DataLoader, Sampler

from skiplab.data.encoding import Encoding, Template
from skiplab.data.pairs import Pairs, digest, encode, pairs_of
from skiplab.data.parts import BatchParts, LengthGrouped, PartOf, Parts, StepParts, TrainingLoader, collate_pairs
from skiplab.data.source import Source
from skiplab.engine.batch import Batch, Part
from skiplab.utils.files import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

# One in `_SELECTION` validation items is used for selection.
_SELECTION = 3


@dataclass(frozen=True)
class Item:
    """One prompt with all its references.

    Attributes:
        prompt_ids: the prompt's tokens, with the end of the template.
    """

    prompt: str
    references: list[str]
    prompt_ids: list[int]


@final
class TextData(L.LightningDataModule):
    """A task's splits as token ids, teacher-forced batches and test items.

    Args:
        source: the task.
        tokenizer: a pretrained model's; None trains one on the task.
        template: the text around prompts.
        batch_size: examples per training batch.
        max_new_tokens: the most tokens of an output; longer references are refused.
        limit: keep only the first `limit` items of each split; None keeps all.
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
    def selection_pairs(self) -> Pairs:
        return self._pairs("selection")

    @cached_property
    def test_pairs(self) -> Pairs:
        return self._pairs("test")

    def rows(self, split: str) -> "Dataset":
        """The examples of a split, or of a part of `valid`: `selection` or `calibration`.

        Schedules, thresholds and searched plans are chosen on the selection items (every third); quality guarantees
        are certified on the others, so that they hold whatever was chosen. Validation losses use the selection items.
        """
        if split not in ("selection", "calibration"):
            return self.splits[split]
        valid = self.splits["valid"]
        return valid.select([row for row in range(len(valid)) if (row % _SELECTION == 0) == (split == "selection")])

    def items(self, split: str) -> list[Item]:
        """The prompts of a split, or of a part of `valid` as in `rows`, each with all its references."""
        rows = self.rows(split)
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
                    f"{self.max_new_tokens}; raise it, cut references with template.longest_target, or remove them"
                )
            longest = max(target, self.max_new_tokens)
            if prompt + longest - 1 > max_positions:
                raise ValueError(
                    f"the longest {name} prompt has {prompt} tokens and outputs or references up to {longest}, the "
                    f"backbone has {max_positions} positions; raise backbone.max_positions, cut the data with "
                    "template.longest_prompt and template.longest_target, or shorten it"
                )

    def train_dataloader(self) -> DataLoader[Part]:
        """This rank's parts of the training batches, which are shuffled with torch's current seed."""
        lengths = self.train_pairs.lengths
        order = LengthGrouped(lengths, self.batch_size, torch.initial_seed())
        return TrainingLoader(self.train_pairs, StepParts(order, lengths, self.batch_size, *self._place), self.pad_id)

    def val_dataloader(self) -> DataLoader[Part]:
        """This rank's validation batches; only selection items, because the others are reserved for certification."""
        pairs, (ranks, rank, _) = self.selection_pairs, self._place
        return self._loader(pairs, BatchParts(len(pairs), self.batch_size, ranks, rank))

    def batches(self, split: str) -> list[Batch]:
        """All pairs of a split, or of a part of `valid` as in `rows`, in batches of similar target length.

        They are the same on every rank.
        """
        pairs = self._pairs(split)
        order = sorted(range(len(pairs)), key=lambda index: pairs.lengths[index][::-1])
        starts = range(0, len(pairs), self.batch_size)
        return [
            collate_pairs(pairs.__getitems__(order[start : start + self.batch_size]), self.pad_id) for start in starts
        ]

    def with_targets(self, targets: Sequence[Sequence[list[int]]]) -> "TextData":
        """A copy that trains on these token ids in place of the references; validation and test stay.

        Args:
            targets: one or more per training item, in the order of the items.
        """
        copied = copy.copy(self)
        prompts = [item.prompt_ids for item in self.items("train")]
        copied.train_pairs = pairs_of(
            (prompt, target) for prompt, own in zip(prompts, targets, strict=True) for target in own
        )
        return copied

    @property
    def _place(self) -> tuple[int, int, int]:
        """Number of ranks, this rank's number, and the number of parts that each rank takes of a step's batch."""
        if (trainer := self.trainer) is None:
            return 1, 0, 1
        return trainer.world_size, trainer.global_rank, trainer.accumulate_grad_batches

    def _loader(self, pairs: Pairs, sampler: Sampler[PartOf]) -> DataLoader[Part]:
        # The sampler forms the batches.
        return DataLoader(
            Parts(pairs, self.pad_id),
            batch_size=None,
            sampler=sampler,
            generator=torch.Generator(),  # type: ignore[arg-type]
        )

    def _pairs(self, split: str) -> Pairs:
        rows = self.rows(split)
        found = self._digests.get(split) or digest(rows)
        return encode(rows, self.encoding, name=split, key=fingerprint(rows=found, **self.encoding.identity))

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {str(name): digest(split) for name, split in self.splits.items()}
