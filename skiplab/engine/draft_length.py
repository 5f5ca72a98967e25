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
        expected: as many as the drafter's probabilities promised, averaged over rows.
        draft_seconds, verify_seconds: time of all drafts, and of the verification.
    """

    drafted: int
    accepted: list[int]
    expected: float
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
        adaptive: draft as long as it pays, by the drafter's confidence, what was accepted and measured times; not at
            all if it never does.
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
        return (AdaptiveLength if self.adaptive else FixedLength)(self.length, self.threshold)

    def __str__(self) -> str:
        """Such as `drafts 4`, `drafts up to 4 above 0.5 of 1000 tokens`."""
        bound = "" if self.threshold is None else f" above {self.threshold:g}"
        tokens = f" of {self.candidates} tokens" if self.candidates else ""
        return f"drafts {'up to ' if self.adaptive else ''}{self.length}{bound}{tokens}"


class DraftLength(ABC):
    """Chooses the number of drafts, round by round.

    Args:
        most: the most drafts of a round.
        threshold: as for `Drafting`.
    """

    def __init__(self, most: int, threshold: float | None = None) -> None:
        self._most = most
        self._threshold = threshold

    @property
    @abstractmethod
    def asks(self) -> bool:
        """Whether `goes_on` depends on the confidence."""

    @abstractmethod
    def next(self) -> int:
        """The most drafts of the next round; 0 runs a plain step at full depth."""

    def goes_on(self, confidence: float) -> bool:
        """Whether a round drafts further.

        Args:
            confidence: the product of a row's draft probabilities so far, averaged over rows.
        """
        return self._threshold is None or confidence >= self._threshold

    @abstractmethod
    def observe(self, outcome: Outcome) -> None:
        """Learn from a round."""


@final
class FixedLength(DraftLength):
    """The same number in every round, or fewer by the threshold."""

    @property
    def asks(self) -> bool:
        return self._threshold is not None

    def next(self) -> int:
        return self._most

    def observe(self, outcome: Outcome) -> None:
        pass


@final
class AdaptiveLength(DraftLength):
    """A round drafts as long as the next draft is expected to gain more tokens than its time would gain otherwise.

    The next draft gains a token if all drafts so far and itself are accepted. The probability of the former is the
    drafter's confidence, corrected by how many drafts it promised and how many were accepted; that of the latter is the
    share of drafts that were accepted. Its time is that of a draft and of one more position to verify. Rounds have no
    drafts if those that had some were slower. The first rounds, and later one of every `_EXPLORE`, are spent on
    learning.
    """

    def __init__(self, most: int, threshold: float | None = None) -> None:
        super().__init__(most, threshold)
        self._rounds = 0
        self._accepted, self._rejected, self._expected = 0.0, 0.0, 0.0
        self._draft = _RunningMean(_KEEP)
        self._verify = {drafts: _RunningMean(_KEEP) for drafts in (False, True)}
        self._drafted = _RunningMean(_KEEP)
        # Of rounds with drafts.
        self._tokens, self._seconds = _RunningMean(_REMEMBER), _RunningMean(_REMEMBER)

    @property
    def asks(self) -> bool:
        return True

    def next(self) -> int:
        if self._rounds < len(_FIRST):
            return self._most * _FIRST[self._rounds]
        # So that neither the cost of a plain step nor acceptance becomes out of date.
        explores = self._rounds % _EXPLORE == 0
        return self._most if self._pays != explores else 0

    def goes_on(self, confidence: float) -> bool:
        if not super().goes_on(confidence):
            return False
        if not self._verify[False].known:
            return True
        trust = (self._accepted + 1) / (self._expected + 1)
        gain = min(1.0, trust * confidence) * self.acceptance
        return gain > (self._draft.value + self._column_seconds) * max(self._plain_rate, self._rate)

    def observe(self, outcome: Outcome) -> None:
        self._rounds += 1
        self._verify[outcome.drafted > 0].add(outcome.verify_seconds)
        if not outcome.drafted:
            return
        accepted = sum(outcome.accepted) / len(outcome.accepted)
        failed = sum(count < outcome.drafted for count in outcome.accepted) / len(outcome.accepted)
        self._accepted = _REMEMBER * self._accepted + accepted
        self._rejected = _REMEMBER * self._rejected + failed
        self._expected = _REMEMBER * self._expected + outcome.expected
        self._draft.add(outcome.draft_seconds / outcome.drafted)
        self._drafted.add(outcome.drafted)
        self._tokens.add(1 + accepted)
        self._seconds.add(outcome.draft_seconds + outcome.verify_seconds)

    @property
    def acceptance(self) -> float:
        """The estimated probability that a draft is accepted."""
        return (self._accepted + 0.5) / (self._accepted + self._rejected + 1)

    @property
    def _pays(self) -> bool:
        return self._rate > self._plain_rate

    @property
    def _rate(self) -> float:
        """Tokens per second and row of rounds with drafts."""
        return self._tokens.value / max(self._seconds.value, _INSTANT)

    @property
    def _plain_rate(self) -> float:
        return 1 / max(self._verify[False].value, _INSTANT)

    @property
    def _column_seconds(self) -> float:
        """Time of one more position in a verification."""
        if not self._verify[True].known:
            return 0.0
        return max(0.0, self._verify[True].value - self._verify[False].value) / self._drafted.value


class _RunningMean:
    """Recent values count more.

    Args:
        keep: the weight of earlier values, per value.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._sum, self._weight = 0.0, 0.0

    def add(self, value: float) -> None:
        self._sum = self._keep * self._sum + value
        self._weight = self._keep * self._weight + 1

    @property
    def known(self) -> bool:
        return self._weight > 0

    @property
    def value(self) -> float:
        return self._sum / self._weight if self._weight else 0.0


# Weights of earlier rounds, per round: of times, and of what was accepted, which varies more.
_KEEP = 0.9
_REMEMBER = 0.97
# One round of so many is spent on learning.
_EXPLORE = 24
# Whether the first rounds draft, to learn acceptance and the cost of a plain step.
_FIRST = (1, 0, 1, 1, 1)
# Seconds; shorter ones are taken for this.
_INSTANT = 1e-9
