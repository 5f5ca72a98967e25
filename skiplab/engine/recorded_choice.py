"""Token choice inside a recorded step: fixed shapes, and no synchronisation with the host.

Shapes: B rows, P prompt columns, C columns of prompt and output, T generated tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from skiplab.engine.generation import GenerationOptions
from skiplab.engine.logits_processing import warpers
from skiplab.engine.sampling import draw
from skiplab.engine.token_choice import Choosing, greedy

Choose = Callable[[Tensor, Tensor], Tensor]
"""Tokens (B,) from raw scores (B, V) and the generation step (1,)."""


def not_recordable(choosing: Choosing) -> str | None:
    """The first feature that a recorded step does not support; None if it supports all."""
    options = choosing.options
    if options is None:
        return "the caller's own processors or stopping criteria"
    for name in ("no_repeat_ngram_size", "bad_words_ids", "stop_strings"):
        if getattr(options, name):
            return name
    return None


@final
class RecordedChoice:
    """The tensors that token choice reads, at fixed addresses.

    Args:
        columns: the most columns of prompt and output together.
        new_tokens: the most generated tokens.

    Attributes:
        ids_BC: prompt and output; columns of padding, and those not generated yet, repeat a token of the row's
            prompt, so that the set of tokens that processors see is exact.
        key_BT: random keys to sample with, one per generation step.
    """

    def __init__(self, *, rows: int, columns: int, new_tokens: int, device: torch.device) -> None:
        self.ids_BC = torch.zeros(rows, columns, dtype=torch.int64, device=device)
        self.key_BT = torch.zeros(rows, new_tokens, dtype=torch.int64, device=device)
        self._options: GenerationOptions | None = None
        self._eos_ids: tuple[int, ...] = ()

    def begin(
        self, choosing: Choosing | None, prompt_BP: Tensor, mask_BP: Tensor, eos_ids: tuple[int, ...], token_B: Tensor
    ) -> None:
        """Fill the tensors for a batch, after its first tokens were chosen."""
        self._options = None if choosing is None else choosing.options
        self._eos_ids = eos_ids
        if choosing is None:
            return
        last_B1, columns = prompt_BP[:, -1:], prompt_BP.shape[1]
        self.ids_BC.copy_(last_B1.expand_as(self.ids_BC))
        self.ids_BC[:, :columns] = torch.where(mask_BP, prompt_BP, last_B1)
        self.ids_BC[:, columns] = token_B
        if choosing.key_BT is not None:
            self.key_BT[:, : choosing.key_BT.shape[1]] = choosing.key_BT.to(self.key_BT.device)

    @property
    def further_eos(self) -> tuple[int, ...]:
        """All tokens that end a row, except the first of them."""
        return self._eos_ids[1:]

    @property
    def reads_ids(self) -> bool:
        """Whether choosing depends on the tokens so far."""
        return self._options is not None and self._options.repetition_penalty != 1

    def key(self, step: int) -> tuple[object, ...]:
        """Steps with equal keys choose and end tokens by the same kernels; an empty key is plain greedy decoding."""
        options = self._options or GenerationOptions()
        held = self._eos_ids if step < options.min_new_tokens else ()
        shaped = (
            options.do_sample, options.repetition_penalty != 1, options.suppress_tokens, held, self.further_eos,
        )  # fmt: skip
        return (*shaped, options.repetition_penalty, *options.warped_by) if any(shaped) else ()

    def keys(self) -> set[tuple[object, ...]]:
        """The keys of all steps of the batch."""
        return {self.key(0), self.key(self.key_BT.shape[1])}

    def at(self, step: int) -> Choose:
        """The function that chooses the tokens of a step."""
        options = self._options
        if options is None:
            return lambda logits_BV, step_1: greedy(logits_BV)
        held = self._eos_ids if step < options.min_new_tokens else ()
        processors = LogitsProcessorList(_processors(options, held, self.ids_BC.device))

        def choose(logits_BV: Tensor, step_1: Tensor) -> Tensor:
            scores_BV = processors(self.ids_BC, logits_BV.float())  # type: ignore[arg-type]
            if not options.do_sample:
                return greedy(scores_BV)  # type: ignore[arg-type]
            return draw(scores_BV, self.key_BT.index_select(1, step_1))  # type: ignore[arg-type]

        return choose


def _processors(options: GenerationOptions, held: Sequence[int], device: torch.device) -> list[LogitsProcessor]:
    found: list[LogitsProcessor] = []
    if options.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
    if held:
        found.append(SuppressTokensLogitsProcessor(list(held), device=str(device)))
    if options.suppress_tokens:
        found.append(SuppressTokensLogitsProcessor(list(options.suppress_tokens), device=str(device)))
    return found + warpers(options, device)
