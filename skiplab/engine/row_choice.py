"""Token choice for rows that each have their own options, prompt and generation step.

Shapes: B rows, N rows of one kind, T generated tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from skiplab.engine.generation import GenerationOptions
from skiplab.engine.sampling import sample
from skiplab.engine.token_choice import greedy


@final
@dataclass(frozen=True)
class RowChoice:
    """How one row's tokens are chosen and where it stops, if not greedily and at its end token or limit.

    Attributes:
        options: the row's.
        processors: the row's logits processors without warpers; called with a batch of this one row.
        criteria: stopping criteria, called with a batch of this one row.
        uniform_T: the random numbers to sample with; None takes the likeliest token.
    """

    options: GenerationOptions
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    uniform_T: Tensor | None

    def uniform(self, step: int) -> Tensor:
        """The random number of a generation step; behind the row's limit, where tokens are dropped, the last one."""
        assert self.uniform_T is not None
        return self.uniform_T[min(step, len(self.uniform_T) - 1)]

    @cached_property
    def kind(self) -> GenerationOptions:
        """Rows whose options agree in this are sampled in one batch."""
        return replace(self.options, seed=None, max_new_tokens=None, num_return_sequences=1, stop_strings=())


@final
@dataclass(frozen=True)
class Chooser:
    """A row that waits for a token.

    Attributes:
        choice: how it is chosen; None is greedy.
        ids: the row's prompt and output so far.
        step: generation step of the token.
    """

    choice: RowChoice | None
    ids: Sequence[int]
    step: int

    def after(self, tokens: Sequence[int]) -> "Chooser":
        """The same row some tokens later."""
        ids = [*self.ids, *tokens] if self.choice is not None else self.ids
        return Chooser(self.choice, ids, self.step + len(tokens))


def choose(logits_BV: Tensor, rows: Sequence[Chooser]) -> list[int]:
    """The next token of each row."""
    plain = any(row.choice is None for row in rows)
    tokens = greedy(logits_BV).tolist() if plain else [0] * len(rows)
    kinds: dict[GenerationOptions, list[int]] = {}
    for place, row in enumerate(rows):
        if row.choice is not None:
            kinds.setdefault(row.choice.kind, []).append(place)
    for kind, places in kinds.items():
        for place, token in zip(
            places, _chosen(logits_BV[places], kind, [rows[place] for place in places]), strict=True
        ):
            tokens[place] = token
    return tokens


def stopped(choice: RowChoice, ids: Sequence[int]) -> bool:
    """Whether the row's stopping criteria end it after its last token."""
    if not choice.criteria:
        return False
    return bool(choice.criteria(torch.tensor([ids]), None)[0])  # type: ignore[arg-type, index]


def _chosen(logits_NV: Tensor, kind: GenerationOptions, rows: Sequence[Chooser]) -> list[int]:
    scores_NV = logits_NV.float()
    for place, row in enumerate(rows):
        assert row.choice is not None
        if row.choice.processors:
            ids_1T = torch.tensor([row.ids], device=logits_NV.device)
            scores_NV[place] = row.choice.processors(ids_1T, scores_NV[place : place + 1].clone())[0]  # type: ignore[arg-type]
    if not kind.do_sample:
        return greedy(scores_NV).tolist()
    uniforms = [row.choice.uniform(row.step) for row in rows if row.choice]
    return sample(scores_NV, kind, torch.stack(uniforms)[:, None].to(logits_NV.device)).tolist()
