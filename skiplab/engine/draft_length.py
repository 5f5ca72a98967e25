"""How many tokens to draft before each verification. No torch.

A round drafts `k` tokens and verifies them in one pass over `k + 1` positions. If each draft is accepted with
probability `a`, independently, it yields `(1 - a^(k+1)) / (1 - a)` tokens (Leviathan et al., arXiv 2211.17192,
equation 1).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final


def expected_tokens(acceptance: float, length: int) -> float:
    """Tokens that a round of `length` drafts yields per row, the verification's own included."""
    return sum(acceptance**drafted for drafted in range(length + 1))


@final
@dataclass(frozen=True)
class Outcome:
    """What came of a round.

    Attributes:
        drafted: drafts per row.
        accepted: accepted drafts, by row.
        draft_seconds, verify_seconds: time of all drafts, and of the verification.
    """

    drafted: int
    accepted: list[int]
    draft_seconds: float
    verify_seconds: float


@final
@dataclass
class DraftCounts:
    """Totals over rounds and rows.

    Attributes:
        verifications: rows that were verified, summed over rounds.
        drafted, accepted: drafts, and those that the full model confirmed.
        layers: layer passes that the rows went through, to draft and to verify.
    """

    verifications: int = 0
    drafted: int = 0
    accepted: int = 0
    layers: int = 0

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
        adaptive: choose the number by what was accepted and by measured times; 0 if drafting does not pay.
        threshold: a round drafts no further once the product of a row's draft probabilities, averaged over rows, is
            below this; None never stops for this reason.
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

    def chooser(self) -> "DraftLength":
        """A new chooser of the number of drafts."""
        return AdaptiveLength(self.length) if self.adaptive else FixedLength(self.length)

    def __str__(self) -> str:
        """Such as `drafts 4`, `drafts up to 4 above 0.5 of 1000 tokens`."""
        bound = "" if self.threshold is None else f" above {self.threshold:g}"
        tokens = f" of {self.candidates} tokens" if self.candidates else ""
        return f"drafts {'up to ' if self.adaptive else ''}{self.length}{bound}{tokens}"


class DraftLength(ABC):
    """Chooses the number of drafts, round by round."""

    @abstractmethod
    def next(self) -> int:
        """Drafts of the next round; 0 runs a plain step at full depth."""

    @abstractmethod
    def observe(self, outcome: Outcome) -> None:
        """Learn from a round."""


@final
class FixedLength(DraftLength):
    """The same number in every round."""

    def __init__(self, length: int) -> None:
        self._length = length

    def next(self) -> int:
        return self._length

    def observe(self, outcome: Outcome) -> None:
        pass


@final
class AdaptiveLength(DraftLength):
    """The number with the highest expected speed, from the measured acceptance and times; 0 if drafting does not pay.

    Acceptance is a running estimate over drafts; a round's time is linear in its number of drafts, with a slope and an
    intercept fitted to recent rounds. The first two rounds, and later one of every `_EXPLORE`, are spent on learning.

    Args:
        most: the largest number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rounds = 0
        self._accepted, self._rejected = 0.0, 0.0
        self._draft = _RunningMean()
        self._verify: dict[int, _RunningMean] = {}

    def next(self) -> int:
        if self._rounds < len(_FIRST):
            return self._most * _FIRST[self._rounds]
        best = max(range(self._most + 1), key=self._speed)
        if self._rounds % _EXPLORE == 0:
            # So that neither the cost of a plain step nor acceptance becomes out of date.
            return 0 if best else 1
        return best

    def observe(self, outcome: Outcome) -> None:
        self._rounds += 1
        tested = [(accepted, accepted < outcome.drafted) for accepted in outcome.accepted]
        if outcome.drafted:
            self._accepted = _REMEMBER * self._accepted + sum(accepted for accepted, _ in tested) / len(tested)
            self._rejected = _REMEMBER * self._rejected + sum(failed for _, failed in tested) / len(tested)
            self._draft.add(outcome.draft_seconds / outcome.drafted)
        self._verify.setdefault(outcome.drafted, _RunningMean()).add(outcome.verify_seconds)

    @property
    def acceptance(self) -> float:
        """The estimated probability that a draft is accepted."""
        return (self._accepted + 0.5) / (self._accepted + self._rejected + 1)

    def _speed(self, length: int) -> float:
        seconds = length * self._draft.value + self._verify_seconds(length)
        return expected_tokens(self.acceptance, length) / seconds

    def _verify_seconds(self, length: int) -> float:
        """Measured, or on the line through the shortest and the longest that were."""
        if length in self._verify:
            return self._verify[length].value
        low, high = min(self._verify), max(self._verify)
        slope = (self._verify[high].value - self._verify[low].value) / max(1, high - low)
        return self._verify[low].value + slope * (length - low)


class _RunningMean:
    """Recent values count more."""

    def __init__(self) -> None:
        self._sum, self._weight = 0.0, 0.0

    def add(self, value: float) -> None:
        self._sum = _KEEP * self._sum + value
        self._weight = _KEEP * self._weight + 1

    @property
    def value(self) -> float:
        return self._sum / self._weight if self._weight else 0.0


# Weight of earlier rounds, per round: for times, and for acceptance, which varies more.
_KEEP = 0.9
_REMEMBER = 0.97
# One round of so many is spent on learning.
_EXPLORE = 24
# The first rounds: the longest, to learn the acceptance, and none, to learn the cost of a plain step.
_FIRST = (1, 0)
