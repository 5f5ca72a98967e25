"""Token choice: the next token from a step's scores.

Shapes: B rows, A rows that have not ended, P prompt columns, T generated tokens, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import final

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from skiplab.engine.generation import GenerationOptions
from skiplab.engine.logits_processing import warpers
from skiplab.engine.sampling import draw, sample


def greedy(logits_BV: Tensor) -> Tensor:
    """The likeliest token of each row, the first of ties. On a CPU `max` is several times faster than `argmax`."""
    return logits_BV.max(-1).indices


def row_key(seed: int, prompt: Sequence[int], number: int = 0) -> int:
    """The key of a row's randomness; it does not depend on the batch or on the row's place in it.

    Args:
        prompt: token ids, so that rows with the same seed get different numbers.
        number: index of the output among the outputs of its prompt.
    """
    data = np.array([seed, number, *prompt], dtype=np.int64).tobytes()
    return int.from_bytes(blake2b(data, digest_size=16).digest(), "little")


def step_keys(keys: Sequence[int], steps: int) -> Tensor:
    """Random int64 (B, T), from only row key and step (Philox; Salmon et al., SC 2011)."""
    rows = [np.random.Philox(key=key).random_raw(steps).view(np.int64) for key in keys]
    return torch.from_numpy(np.stack(rows))


@final
@dataclass(frozen=True)
class Choosing:
    """How the tokens of one batch are chosen, if not greedily from raw scores.

    Attributes:
        processors, criteria: called as `generate` calls them, with all rows of the batch in their order, prompts and
            padding included; rows that have ended stay in it as padding, with scores of 0.
        key_BT: random keys to sample with, one per generation step; None takes the likeliest token.
        options: the options that describe all processors and criteria; None if the caller added others. Recorded
            steps are made from them.
    """

    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    criteria: StoppingCriteriaList = field(default_factory=StoppingCriteriaList)
    key_BT: Tensor | None = None
    options: GenerationOptions | None = None


class TokenChoice(ABC):
    """Chooses a batch's tokens step by step."""

    @abstractmethod
    def choose(self, logits_AV: Tensor, index_A: Tensor, step: int) -> Tensor:
        """Tokens (A,) of a generation step.

        Args:
            index_A: the rows' places in the batch.
        """

    @abstractmethod
    def stopped(self, index_A: Tensor, step: int) -> Tensor | None:
        """Rows (A,) that stopping criteria end at this step; None if no criteria apply."""


@final
class Greedy(TokenChoice):
    """The likeliest token of the raw scores."""

    def choose(self, logits_AV: Tensor, index_A: Tensor, step: int) -> Tensor:
        return greedy(logits_AV)

    def stopped(self, index_A: Tensor, step: int) -> None:
        return None


@final
class Processed(TokenChoice):
    """Scores go through processors; the likeliest token is taken, or one is drawn.

    Args:
        prompt_BP: left-padded prompts.
        longest: the most tokens that a row generates.
    """

    def __init__(self, choosing: Choosing, prompt_BP: Tensor, *, longest: int, pad_id: int) -> None:
        room_BT = prompt_BP.new_full((len(prompt_BP), longest), pad_id)
        self._choosing = choosing
        self._columns = prompt_BP.shape[1]
        self._ids_BT = torch.cat([prompt_BP, room_BT], dim=1)
        key_BT = choosing.key_BT
        # `sample` applies the warpers.
        warping = 0 if choosing.options is None else len(warpers(choosing.options, prompt_BP.device))
        self._processors = LogitsProcessorList(choosing.processors[: len(choosing.processors) - warping])
        self._key_BT = None if key_BT is None else key_BT.to(prompt_BP.device)

    def choose(self, logits_AV: Tensor, index_A: Tensor, step: int) -> Tensor:
        column = self._columns + step
        scores_AV = self._scores(logits_AV, index_A, self._ids_BT[:, :column])
        if self._key_BT is None:
            token_A = greedy(scores_AV)
        else:
            key_A1 = self._key_BT[index_A, step][:, None]
            options = self._choosing.options
            token_A = draw(scores_AV, key_A1) if options is None else sample(scores_AV, options, key_A1)
        self._ids_BT[index_A, column] = token_A
        return token_A

    def _scores(self, logits_AV: Tensor, index_A: Tensor, ids_BT: Tensor) -> Tensor:
        processors, rows = self._processors, len(ids_BT)
        if not processors:
            return logits_AV.float()
        # A copy, since processors may write to it.
        scores_AV = logits_AV.to(torch.float32, copy=True)
        if len(index_A) == rows:
            # Rows change places only when others leave.
            return processors(ids_BT, scores_AV)  # type: ignore[arg-type, return-value]
        scores_BV = scores_AV.new_zeros(rows, scores_AV.shape[1])
        scores_BV[index_A] = scores_AV
        return processors(ids_BT, scores_BV)[index_A]  # type: ignore[arg-type]

    def stopped(self, index_A: Tensor, step: int) -> Tensor | None:
        criteria = self._choosing.criteria
        if not criteria:
            return None
        return criteria(self._ids_BT[:, : self._columns + step + 1], None)[index_A]  # type: ignore[arg-type]
