"""How often drafters choose the full model's token, without decoding.

Shapes: B rows, N generated tokens but the first, M of them that are scored, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch
from skiplab.engine.candidates import draft_candidates
from skiplab.engine.draft_forward import FullPass, drafted_states, full_pass
from skiplab.engine.draft_length import Drafting
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.policy import ExitPolicy, Head
from skiplab.engine.sampling import sample
from skiplab.engine.token_choice import greedy, step_keys

# States whose logits are in memory at a time.
_STATES = 512


@final
class DraftAgreement:
    """Compares drafters with the full model at the targets of batches, which are read once at full depth.

    Args:
        drafting: the tokens that may be drafted, by their ids.
        options: greedy decoding, or sampling that depends on scores alone. In sampling, drafter and full model draw
            with the same keys, as in decoding.
    """

    def __init__(
        self, backbone: Backbone, batches: Sequence[Batch], drafting: Drafting, options: GenerationOptions
    ) -> None:
        self._backbone = backbone
        self._options = options
        self._read = [self._at_full_depth(batch, drafting) for batch in batches if batch.decode_steps]

    @torch.inference_mode()
    def share(self, drafter: ExitPolicy, length: int) -> float:
        """Share of the target tokens, without the first of a row, at which both choose the same token.

        Args:
            length: drafts per round.
        """
        same, count = 0, 0
        for read in self._read:
            drafted_BND = drafted_states(self._backbone, drafter, read.full, length=length)
            drafted_M = self._choose(read.head, drafted_BND[read.scored_BN])
            same += int((drafted_M == read.chosen_M).sum())
            count += len(drafted_M)
        return same / max(1, count)

    @torch.inference_mode()
    def _at_full_depth(self, batch: Batch, drafting: Drafting) -> "_Read":
        full = full_pass(self._backbone, batch)
        scored_BN = batch.target_BG[:, 1:] != IGNORE
        chosen_M = self._choose(self._backbone.head, full.states_BGD[:, 1:][scored_BN])
        candidates = draft_candidates(self._backbone, drafting)
        if candidates is not None:
            for prompt_P, mask_P in zip(batch.input_BT, batch.prompt_mask_BP, strict=True):
                candidates.admit(prompt_P[: len(mask_P)][mask_P].tolist())
        return _Read(full, scored_BN, chosen_M, candidates or self._backbone.head)

    def _choose(self, head: Head, h_MD: Tensor) -> Tensor:
        """The tokens (M,) of states, with the logits of some of them in memory at a time."""
        key_M1 = step_keys([0], len(h_MD)).T.to(h_MD.device)
        parts = zip(h_MD.split(_STATES), key_M1.split(_STATES), strict=True)
        return torch.cat([self._token(head(part_ND), key_N1) for part_ND, key_N1 in parts])

    def _token(self, logits_NV: Tensor, key_N1: Tensor) -> Tensor:
        return sample(logits_NV.float(), self._options, key_N1) if self._options.do_sample else greedy(logits_NV)


@dataclass(frozen=True)
class _Read:
    """A batch after its pass at full depth, the tokens that the full model chooses, and the head that drafts."""

    full: FullPass
    scored_BN: Tensor
    chosen_M: Tensor
    head: Head
