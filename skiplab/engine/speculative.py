"""Self-speculative decoding: some layers of the model draft tokens, and all layers verify them.

Drafts and verification use the same weights and the same cache, so the drafter needs no memory of its own (Zhang et
al., arXiv 2309.08168; LayerSkip, arXiv 2404.16710). The verification computes all layers' keys and values of the
drafted positions, so it also fills the layers that the drafter skipped.

Output is that of full depth, token for token. In sampling too: drafter and full model draw with the same random key of
the row's step (`skiplab.engine.sampling`), and a draft is accepted if the full model draws the same token. So a seed
gives one output, whatever the drafter and the number of drafts. The accept-reject rule (Leviathan et al., arXiv
2211.17192) keeps only the distribution; it accepts a draft with probability `1 - d`, and this one at about
`(1 - d) / (1 + d)` or more.

Shapes: B rows, T drafted positions and one more, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch, frequent_targets
from skiplab.engine.candidates import draft_candidates
from skiplab.engine.draft_length import DraftCounts, Drafting
from skiplab.engine.draft_rounds import DraftLength, Outcome, chooser
from skiplab.engine.live_rows import LiveRow, LiveRows
from skiplab.engine.policy import ExitPolicy, PromptPlanned
from skiplab.engine.row_choice import Chooser, choose
from skiplab.engine.token_choice import greedy
from skiplab.schedules.exit_schedule import LayerPlan, terminate_plan


@final
class Speculative(ExitPolicy):
    """Full depth, decoded with the help of a drafter.

    Args:
        drafter: gives the layers that draft the token of a generation step. They need not be nested.
        num_layers: of the backbone.

    Raises:
        ValueError: the drafter lets rows decide when to exit, has a prompt plan, or runs all layers.
    """

    follows_plan = False

    def __init__(self, drafter: ExitPolicy, num_layers: int, drafting: Drafting) -> None:
        if isinstance(drafter, PromptPlanned):
            raise ValueError(
                "a drafter must have no prompt plan, because drafts are verified by the full model, which runs every "
                "layer on the whole prompt; use the drafter without its prompt plan"
            )
        if not drafter.follows_plan:
            raise ValueError("a drafter must have planned layers; rows that decide when to exit cannot draft")
        if len(drafter.plan(1)) >= num_layers:
            raise ValueError(
                f"a drafter must run fewer than the model's {num_layers} layers, got {len(drafter.plan(1))} at step 1"
            )
        self.drafter = drafter
        self.drafting = drafting
        self._num_layers = num_layers
        self._plan = terminate_plan(num_layers)
        self._lengths: dict[int, DraftLength] = {}

    def length(self, rows: int) -> DraftLength:
        """The chooser of the number of drafts for about so many rows; what it learns serves all later rounds of them.

        Numbers of rows that round up to the same power of two share one.
        """
        size = (rows - 1).bit_length()
        if size not in self._lengths:
            self._lengths[size] = chooser(self.drafting)
        return self._lengths[size]

    def fitted(self, valid: Sequence[Batch]) -> ExitPolicy:
        """With the ids of the tokens that may be drafted, if their number is given."""
        count = self.drafting.vocabulary
        if not isinstance(count, int):
            return self
        if not valid:
            raise ValueError(
                f"draft vocabulary={count} takes the most frequent tokens of validation data, and there is none here; "
                "give their ids, or null"
            )
        ids = tuple(frequent_targets(valid, count).tolist())
        return Speculative(self.drafter, self._num_layers, replace(self.drafting, vocabulary=ids))

    def plan(self, step: int) -> LayerPlan:
        return self._plan


@final
@dataclass(frozen=True)
class Verified:
    """A row's outcome of a round.

    Attributes:
        tokens: accepted drafts and the full model's next token; at least one.
        logits_TV: the full model's scores from which the tokens were chosen.
    """

    tokens: list[int]
    logits_TV: Tensor


@final
class Rounds:
    """Draft and verify, round by round, for the decoding rows of a batch.

    Attributes:
        counts: what was drafted and accepted.
    """

    def __init__(self, backbone: Backbone, policy: Speculative, live: LiveRows) -> None:
        policy.drafting.check_fits(backbone.max_positions)
        self._device = backbone.device
        self._policy = policy
        self._live = live
        self._candidates = draft_candidates(backbone, policy.drafting)
        self.counts = DraftCounts()

    def admit(self, prompt: Sequence[int]) -> None:
        """Tell the prompt of a row that will be decoded."""
        if self._candidates is not None:
            self._candidates.admit(prompt)

    def run(self, choosers: Sequence[Chooser], room: Sequence[int]) -> list[Verified]:
        """One round; the rows' columns move on by the number of tokens that each gained.

        Args:
            choosers: how each row's next token is chosen.
            room: tokens that each row may still generate, at least one; a row may gain more, which its caller drops.
        """
        rows = self._live.decoding
        length = self._policy.length(len(rows))
        recordings, started = self._live.recordings, time.perf_counter()
        drafts, layers, promised = self._draft(choosers, length, max(room) - 1)
        drafted = time.perf_counter()
        token_BT = self._tensor([[row.tokens[-1], *draft] for row, draft in zip(rows, drafts, strict=True)])
        full = self._policy.plan(0)
        logits_BTV = self._live.look_ahead(token_BT, full)
        found = verify(logits_BTV, drafts, choosers)
        outcome = Outcome(
            drafted=len(drafts[0]),
            accepted=[len(tokens) - 1 for tokens in found],
            promised=promised,
            draft_seconds=drafted - started,
            verify_seconds=time.perf_counter() - drafted,
            usual=self._live.recordings == recordings,
        )
        length.observe(outcome, [row.drafts for row in rows])
        self.counts.add(outcome.drafted, outcome.accepted, room, layers=layers + len(full))
        for row, tokens in zip(rows, found, strict=True):
            row.column += len(tokens)
        return [Verified(*gained) for gained in zip(found, logits_BTV, strict=True)]

    def _draft(
        self, choosers: Sequence[Chooser], length: DraftLength, most: int
    ) -> tuple[list[list[int]], int, list[float]]:
        """Each row's drafts, the layers that ran for them, and what the drafter promised of them."""
        rows = self._live.decoding
        drafts: list[list[int]] = [[] for _ in rows]
        probability_B, confidences = torch.ones(len(rows), device=self._device), [1.0] * len(rows)
        layers, promised, tallies = 0, list[float](), [row.drafts for row in rows]
        for offset in range(min(length.next(), most)):
            if not length.goes_on(confidences, tallies):
                break
            newest = [[draft[-1] if draft else row.tokens[-1]] for row, draft in zip(rows, drafts, strict=True)]
            plan = self._deepest(rows, offset)
            logits_BV = self._live.look_ahead(self._tensor(newest), plan, offset=offset, head=self._candidates)[:, -1]
            layers += len(plan)
            ahead = [chooser.after(draft) for chooser, draft in zip(choosers, drafts, strict=True)]
            for draft, token in zip(drafts, choose(logits_BV, ahead), strict=True):
                draft.append(token)
            if length.asks:
                chosen_B1 = self._tensor([draft[-1:] for draft in drafts])
                probability_B *= logits_BV.float().softmax(-1).gather(1, chosen_B1)[:, 0]
                confidences = probability_B.tolist()
                promised.append(sum(confidences) / len(rows))
        return drafts, layers, promised

    def _deepest(self, rows: Sequence[LiveRow], offset: int) -> LayerPlan:
        """The plan of all rows. One plan keeps them in one pass; a deeper one drafts no worse."""
        return max((self._policy.drafter.plan(row.step + offset) for row in rows), key=len)

    def _tensor(self, values: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, device=self._device)


def verify(logits_BTV: Tensor, drafts: Sequence[Sequence[int]], choosers: Sequence[Chooser]) -> list[list[int]]:
    """Each row's tokens: the full model's choices up to the first that differs from the draft.

    Args:
        logits_BTV: at the newest token and at each draft.
    """
    if all(chooser.choice is None for chooser in choosers):
        chosen_BT = greedy(logits_BTV.flatten(0, 1)).view(logits_BTV.shape[:2]).tolist()
        return [_agreed(chosen, draft) for chosen, draft in zip(chosen_BT, drafts, strict=True)]
    found: list[list[int]] = [[] for _ in drafts]
    for place in range(logits_BTV.shape[1]):
        running = [row for row, draft in enumerate(drafts) if found[row] == list(draft[:place])]
        if not running:
            break
        ahead = [choosers[row].after(found[row]) for row in running]
        for row, token in zip(running, choose(logits_BTV[running, place], ahead), strict=True):
            found[row].append(token)
    return found


def _agreed(chosen: list[int], draft: Sequence[int]) -> list[int]:
    agreed = next((place for place, token in enumerate(draft) if token != chosen[place]), len(draft))
    return chosen[: agreed + 1]
