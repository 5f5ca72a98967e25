"""How tokens are drafted, and what came of it. No torch.

A round drafts `k` tokens and verifies them in one pass over `k + 1` positions. If each draft is accepted with
probability `a`, independently, it yields `(1 - a^(k+1)) / (1 - a)` tokens (Leviathan et al., arXiv 2211.17192,
equation 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final


def expected_tokens(acceptance: float, length: int) -> float:
    """Tokens that a round of `length` drafts yields per row, the verification's own included."""
    return sum(acceptance**drafted for drafted in range(length + 1))


@final
@dataclass
class DraftCounts:
    """Totals over rounds and rows.

    Attributes:
        verifications: rows that were verified, summed over rounds.
        drafted, accepted: drafts, and those that the full model confirmed; none of those behind a row's limit,
            which are dropped.
        layers: layer passes that the rows went through, to draft and to verify.
    """

    verifications: int = 0
    drafted: int = 0
    accepted: int = 0
    layers: int = 0

    def add(self, drafted: int, accepted: Sequence[int], room: Sequence[int], *, layers: int) -> None:
        """Count a round.

        Args:
            drafted: drafts per row.
            accepted: by row.
            room: tokens that each row could still generate, at least one: the verification's own and so many drafts.
            layers: layer passes of each row.
        """
        self.verifications += len(accepted)
        self.drafted += sum(min(drafted, left - 1) for left in room)
        self.accepted += sum(min(count, left - 1) for count, left in zip(accepted, room, strict=True))
        self.layers += layers * len(accepted)

    @classmethod
    def total(cls, parts: Sequence[Self]) -> Self | None:
        """The sum; None of nothing."""
        if not parts:
            return None
        return cls(*(sum(getattr(part, name) for part in parts) for name in vars(parts[0])))

    @property
    def figures(self) -> dict[str, float]:
        """What a results row says of them."""
        if not self.verifications:
            return {}
        tokens = self.accepted + self.verifications
        found = {"tokens_per_verification": tokens / self.verifications, "layers_per_token": self.layers / tokens}
        return found | ({"draft_acceptance": self.accepted / self.drafted} if self.drafted else {})


@final
@dataclass(frozen=True, kw_only=True)
class Drafting:
    """How tokens are drafted.

    Args:
        length: tokens drafted per round, or the most if `adaptive`.
        adaptive: draft as long as it pays, by the drafter's confidence, what was accepted of each row's drafts, and
            measured times; not at all if it never does.
        threshold: a round drafts no further once the product of a row's draft probabilities, averaged over rows, is
            below this; None never stops for this reason. In sampling, too, probabilities are the model's own, before
            temperature and filters.
        vocabulary: the tokens that may be drafted beside those of the prompt: so many of the task's most frequent
            ones, or these ids; None is all.

    Raises:
        ValueError: a value is out of its range.
    """

    length: int = 4
    adaptive: bool = False
    threshold: float | None = None
    vocabulary: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.vocabulary is not None and self.candidates < 1:
            raise ValueError("draft vocabulary must have at least 1 token; null drafts from all")
        if self.length < 1:
            raise ValueError(f"draft length must be at least 1, got {self.length}; for no drafts use full depth")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"draft threshold must lie between 0 and 1, got {self.threshold}; null turns it off")

    @property
    def candidates(self) -> int:
        """Number of tokens of `vocabulary`, 0 without one."""
        given = self.vocabulary or 0
        return given if isinstance(given, int) else len(given)

    def check_fits(self, max_positions: int) -> None:
        """Refuse a length that can never be verified.

        Raises:
            ValueError: it is not below the model's number of positions.
        """
        if self.length >= max_positions:
            raise ValueError(
                f"draft length {self.length} must be below the model's {max_positions} positions; lower it"
            )

    def __str__(self) -> str:
        """Such as `drafts 4`, `drafts up to 4 above 0.5 of 1000 tokens`."""
        bound = "" if self.threshold is None else f" above {self.threshold:g}"
        tokens = f" of {self.candidates} tokens" if self.candidates else ""
        return f"drafts {'up to ' if self.adaptive else ''}{self.length}{bound}{tokens}"
