"""The tokens that may be drafted, if not the whole vocabulary.

A small model's head takes as long as several of its layers, and every draft runs it. Drafts need only the tokens that
are frequent in the task and those of the prompt, from which names are copied (after FR-Spec, arXiv 2502.14856, which
takes the frequent ones). The verification chooses among all tokens, so the output does not depend on this.

Shapes: K candidates, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.draft_length import Drafting


@final
class Candidates:
    """The frequent tokens, and at most as many of the latest prompts. Called with states, it gives their logits.

    Args:
        frequent: ids.
    """

    def __init__(self, backbone: Backbone, frequent: Sequence[int]) -> None:
        self._backbone = backbone
        self._vocabulary = backbone.model.config.vocab_size
        self._frequent = frozenset(frequent)
        # By their last use.
        self._prompts: dict[int, None] = {}
        self._ids_K = torch.empty(0)
        self._head: Callable[[Tensor], Tensor] | None = None

    def admit(self, prompt: Iterable[int]) -> None:
        """Let a prompt's tokens be drafted."""
        before = self._prompts.keys()
        own = {token: None for token in prompt if token not in self._frequent}
        after = {token: None for token in before if token not in own} | own
        for token in list(after)[: max(0, len(after) - len(self._frequent))]:
            del after[token]
        if after.keys() != before:
            self._head = None
        self._prompts = after

    def __call__(self, h_BTD: Tensor) -> Tensor:
        """Logits (..., V) of states (..., D); minus infinity for tokens that are no candidates."""
        if self._head is None:
            self._ids_K = torch.tensor(sorted(self._frequent | self._prompts.keys()), device=h_BTD.device)
            self._head = self._backbone.reduced_head(self._ids_K)
        logits = self._head(h_BTD)
        return logits.new_full((*logits.shape[:-1], self._vocabulary), -torch.inf).index_copy_(-1, self._ids_K, logits)


def draft_candidates(backbone: Backbone, drafting: Drafting) -> Candidates | None:
    """The tokens that may be drafted; None is all.

    Raises:
        ValueError: only their number is given.
    """
    if isinstance(drafting.vocabulary, int):
        raise ValueError(
            f"draft vocabulary={drafting.vocabulary} is a number of tokens; `fitted` finds them on validation batches"
        )
    return None if drafting.vocabulary is None else Candidates(backbone, drafting.vocabulary)
