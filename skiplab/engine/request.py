"""Requests to decode: a batch of rows, or one row.

Shapes: B rows, P prompt columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from secrets import randbits
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from skiplab.engine.batch import left_pad
from skiplab.engine.generation import GREEDY, GenerationOptions
from skiplab.engine.logits_processing import processors, warpers
from skiplab.engine.row_choice import RowChoice
from skiplab.engine.stop_strings import stop_criterion
from skiplab.engine.token_choice import Choosing, Greedy, Processed, TokenChoice, row_key, uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@final
@dataclass(frozen=True)
class Request:
    """The rows of a batch.

    Attributes:
        prompts: token ids per row, at least one each.
        limits: tokens that each row may generate.
        eos_ids: tokens that end a row.
        choosing: how tokens are chosen; None decodes greedily.
    """

    prompts: Sequence[Sequence[int]]
    limits: Sequence[int]
    eos_ids: tuple[int, ...]
    pad_id: int
    choosing: Choosing | None = None

    @property
    def longest(self) -> int:
        """The largest limit."""
        return max(self.limits)

    @property
    def columns(self) -> int:
        """Width of the padded prompts."""
        return max(map(len, self.prompts))

    def left_padded(self) -> tuple[Tensor, Tensor]:
        """Prompts as ids (B, P), and a mask (B, P) that is True at real tokens."""
        return left_pad(self.prompts, self.pad_id)

    def choice(self, prompt_BP: Tensor) -> TokenChoice:
        """The object that chooses the batch's tokens."""
        if self.choosing is None:
            return Greedy()
        return Processed(self.choosing, prompt_BP, longest=self.longest, pad_id=self.pad_id)

    def row_choice(self, row: int, device: torch.device | str) -> RowChoice | None:
        """How one row's tokens are chosen, from its left-padded prompt and its output; None is greedy.

        Processors and criteria of the caller's own are called with a batch of this one row.
        """
        choosing = self.choosing
        if choosing is None:
            return None
        uniform_T = None if choosing.uniform_BT is None else choosing.uniform_BT[row]
        options = choosing.options
        if options is None:
            drawn = GREEDY if uniform_T is None else GenerationOptions(do_sample=True, top_k=0)
            return RowChoice(drawn, choosing.processors, choosing.criteria, uniform_T)
        padding = self.columns - len(self.prompts[row])
        found = processors(
            options, prompt_columns=self.columns, padding_B=torch.tensor([padding], device=device),
            eos_ids=self.eos_ids,
        )  # fmt: skip
        # `sample` applies the warpers.
        kept = LogitsProcessorList(found[: len(found) - len(warpers(options, torch.device(device)))])
        return RowChoice(options, kept, choosing.criteria, uniform_T)

    def check(self, max_positions: int) -> None:
        """Refuse a batch that cannot be decoded.

        Raises:
            ValueError: a row is empty, or prompt and limit exceed the positions.
        """
        if len(self.limits) != len(self.prompts):
            raise ValueError(
                f"expected one max_new_tokens per prompt, got {len(self.limits)} for {len(self.prompts)} prompts"
            )
        for row, (prompt, limit) in enumerate(zip(self.prompts, self.limits, strict=True)):
            if not prompt or limit < 1:
                raise ValueError(
                    f"row {row} needs at least one prompt token and one new token, got {len(prompt)} and {limit}"
                )
            if len(prompt) + limit - 1 > max_positions:
                raise ValueError(
                    f"row {row} needs {len(prompt)} prompt + {limit - 1} generated positions, the backbone has "
                    f"{max_positions}; shorten the prompt or max_new_tokens"
                )


@final
@dataclass(frozen=True)
class RowRequest:
    """One output to be generated.

    Attributes:
        prompt: token ids, at least one.
        limit: tokens that it may generate.
        eos_ids: tokens that end it.
        choice: how its tokens are chosen; None decodes greedily.
    """

    prompt: Sequence[int]
    limit: int
    eos_ids: tuple[int, ...] = ()
    choice: RowChoice | None = None

    @property
    def columns(self) -> int:
        """Positions whose keys and values it needs."""
        return len(self.prompt) + self.limit - 1


@final
@dataclass(frozen=True)
class Decoding:
    """Makes requests from generation options and the model's defaults.

    Attributes:
        max_new_tokens: used where the options set none.
        eos_id: used where the options set none.
        tokenizer: needed for stop strings.
        device: the model's.
        processors, criteria: the caller's own, in addition to those of the options.
    """

    options: GenerationOptions
    max_new_tokens: int
    eos_id: int | None
    pad_id: int
    tokenizer: "PreTrainedTokenizerBase | None" = None
    device: torch.device | str = "cpu"
    processors: Sequence[LogitsProcessor] = ()
    criteria: Sequence[StoppingCriteria] = ()

    @property
    def eos_ids(self) -> tuple[int, ...]:
        if self.options.eos_token_id is not None:
            return self.options.eos_token_id
        return () if self.eos_id is None else (self.eos_id,)

    @property
    def limit(self) -> int:
        """Tokens that a row may generate."""
        return self.options.max_new_tokens or self.max_new_tokens

    def request(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        numbers: Sequence[int] | None = None,
        limits: Sequence[int] | None = None,
    ) -> Request:
        """One batch.

        Args:
            numbers: per row, the index of its output among the outputs of its prompt; None is 0 for all.
            limits: tokens that each row may generate; None is `limit` for all.
        """
        keys: list[int] = []
        if self.options.do_sample:
            rows = zip(prompts, numbers or repeat(0), strict=False)
            keys = [_key(prompt, number, self.options.seed) for prompt, number in rows]
        return self._request(prompts, limits or [self.limit] * len(prompts), keys)

    def row(self, prompt: Sequence[int], *, number: int = 0, limit: int | None = None) -> RowRequest:
        """A single row, which can be decoded beside rows with other options.

        Args:
            number, limit: as one entry of `numbers` and `limits` in `request`.
        """
        request = self.request([prompt], numbers=[number], limits=[limit or self.limit])
        return RowRequest(prompt, request.longest, self.eos_ids, request.row_choice(0, self.device))

    def requests(self, prompts: Sequence[Sequence[int]], *, batch_size: int) -> Iterator[Request]:
        """Batches of at most `batch_size` rows, with `num_return_sequences` consecutive rows per prompt."""
        rows = [(prompt, number) for prompt in prompts for number in range(self.options.num_return_sequences)]
        for first in range(0, len(rows), batch_size):
            part = rows[first : first + batch_size]
            yield self.request([prompt for prompt, _ in part], numbers=[number for _, number in part])

    def _request(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], keys: Sequence[int]) -> Request:
        request = Request(prompts, limits, self.eos_ids, self.pad_id)
        if self.options.is_plain_greedy and not self.processors and not self.criteria:
            return request
        columns = max(map(len, prompts), default=0)
        choosing = Choosing(
            processors=processors(
                self.options,
                prompt_columns=columns,
                padding_B=torch.tensor([columns - len(prompt) for prompt in prompts], device=self.device),
                eos_ids=self.eos_ids,
                custom=self.processors,
            ),
            criteria=self._criteria(columns),
            uniform_BT=uniforms(keys, max(limits)) if self.options.do_sample else None,
            options=None if self.processors or self.criteria else self.options,
        )
        return Request(prompts, limits, self.eos_ids, self.pad_id, choosing)

    def _criteria(self, columns: int) -> StoppingCriteriaList:
        found = StoppingCriteriaList(self.criteria)
        if self.options.stop_strings:
            if self.tokenizer is None:
                raise ValueError("stop_strings need a tokenizer")
            found.append(stop_criterion(self.tokenizer, self.options.stop_strings, columns))
        return found


def _key(prompt: Sequence[int], number: int, seed: int | None) -> int:
    """The key of a row's random numbers; without a seed, a new one each time."""
    return randbits(128) if seed is None else row_key(seed, prompt, number)
