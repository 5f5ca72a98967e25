"""Padding: prompts on the left, so that generation starts at the same column in all rows; targets on the right.

Shapes: B rows, U prompts, P prompt columns, G generated columns, T = P + G - 1 input columns.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = -100


class Batch(NamedTuple):
    """Teacher-forced examples. Input column `P - 1 + g` predicts generated token `g`.

    Attributes:
        input_BT: prompt, then all generated tokens except the last.
        prompt_mask_BP: True at prompt tokens, False at left padding.
        target_BG: generated tokens, `IGNORE` at right padding.
    """

    input_BT: Tensor
    prompt_mask_BP: Tensor
    target_BG: Tensor

    @property
    def prompt_columns(self) -> int:
        return self.prompt_mask_BP.shape[1]

    @property
    def decode_steps(self) -> int:
        """Generation steps after the first token."""
        return self.target_BG.shape[1] - 1

    def chunk(self, parts: int) -> "list[Batch]":
        """The rows in at most `parts` parts of similar size, each with all columns."""
        return [Batch(*pieces) for pieces in zip(*(tensor.chunk(parts) for tensor in self), strict=True)]


class PromptGroup(NamedTuple):
    """Prompts, each once, and the examples that continue them, in batches of similar target length.

    Attributes:
        prompt_UP: left-padded.
        mask_UP: True at prompt tokens, False at left padding.
        prompt_of: for each batch, the prompt of each row, (B,).
        batches: the examples; with all columns of the prompts.
    """

    prompt_UP: Tensor
    mask_UP: Tensor
    prompt_of: list[Tensor]
    batches: list[Batch]

    def to(self, device: torch.device) -> "PromptGroup":
        """The group with its tensors on a device."""
        return PromptGroup(
            self.prompt_UP.to(device),
            self.mask_UP.to(device),
            [prompt_B.to(device) for prompt_B in self.prompt_of],
            [Batch(*(tensor.to(device) for tensor in batch)) for batch in self.batches],
        )


class Part(NamedTuple):
    """The part of a step's batch that one rank processes at a time.

    Attributes:
        weight: the factor of its mean loss. In training, its share of the step's generated tokens times the number of
            parts, so that the mean over parts is the mean over tokens; in validation 1. If no example was left for
            the rank it is 0, and the batch only keeps the rank in step with the others.
    """

    batch: Batch
    weight: float


def frequent_targets(batches: Sequence[Batch], count: int, *, vocabulary: int = 0) -> Tensor:
    """The `count` most frequent generated tokens of some batches, the most frequent first.

    If so many do not occur, the lowest ids follow, which a BPE tokenizer gave to the most frequent tokens.

    Args:
        vocabulary: size of the vocabulary; 0 goes up to the largest id that occurs.
    """
    tokens_N = torch.cat([batch.target_BG[batch.target_BG != IGNORE] for batch in batches])
    return tokens_N.bincount(minlength=vocabulary).argsort(descending=True, stable=True)[:count]


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token lists to ids (B, P) and a mask (B, P) that is True at real tokens."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return ids, torch.arange(width) >= width - lengths[:, None]


def collate(prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Pairs of token lists to a `Batch`; targets end with the end-of-sequence token."""
    return _continued(*left_pad(prompts, pad_id), targets, pad_id)


def group_by_prompt(
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]], pad_id: int, *, size: int
) -> list[PromptGroup]:
    """Pairs of token lists to groups of `size` prompts, with batches of `size` targets."""
    targets: dict[tuple[int, ...], list[Sequence[int]]] = {}
    for prompt, target in pairs:
        targets.setdefault(tuple(prompt), []).append(target)
    prompts = sorted(targets, key=lambda prompt: (max(map(len, targets[prompt])), len(prompt)))
    return [
        _group([(prompt, targets[prompt]) for prompt in prompts[first : first + size]], pad_id, size)
        for first in range(0, len(prompts), size)
    ]


def _group(continued: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], pad_id: int, size: int) -> PromptGroup:
    prompt_UP, mask_UP = left_pad([prompt for prompt, _ in continued], pad_id)
    examples = sorted(
        ((row, target) for row, (_, targets) in enumerate(continued) for target in targets),
        key=lambda example: len(example[1]),
    )
    group = PromptGroup(prompt_UP, mask_UP, [], [])
    for first in range(0, len(examples), size):
        rows, targets = zip(*examples[first : first + size], strict=True)
        group.prompt_of.append(torch.tensor(rows))
        group.batches.append(_continued(prompt_UP[list(rows)], mask_UP[list(rows)], targets, pad_id))
    return group


def _continued(prompt_BP: Tensor, mask_BP: Tensor, targets: Sequence[Sequence[int]], pad_id: int) -> Batch:
    width = max(map(len, targets))
    target_BG = torch.tensor([list(target) + [IGNORE] * (width - len(target)) for target in targets])
    fed_BG = target_BG[:, :-1].masked_fill(target_BG[:, :-1] == IGNORE, pad_id)
    return Batch(torch.cat([prompt_BP, fed_BG], dim=1), mask_BP, target_BG)
