"""How many tokens a round drafts before its verification. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from skiplab.engine.draft_length import Drafting


@final
@dataclass(frozen=True)
class Outcome:
    """What came of a round.

    Attributes:
        drafted: drafts per row.
        accepted: accepted drafts, by row.
        promised: for each draft, the product of a row's draft probabilities so far, averaged over rows; empty if nobody
            asked for them.
        draft_seconds, verify_seconds: time of all drafts, and of the verification.
        usual: whether other rounds take as long; not if this one recorded its passes.
    """

    drafted: int
    accepted: Sequence[int]
    promised: Sequence[float]
    draft_seconds: float
    verify_seconds: float
    usual: bool = True

    @property
    def mean_accepted(self) -> float:
        """Accepted drafts, averaged over rows."""
        return sum(self.accepted) / len(self.accepted)

    @property
    def rejected(self) -> Sequence[bool]:
        """Whether a draft was rejected, by row."""
        return [count < self.drafted for count in self.accepted]


@final
@dataclass
class Tally:
    """Accepted and rejected drafts; those after a rejected one are not counted. Recent rounds weigh more."""

    accepted: float = 0.0
    rejected: float = 0.0

    def add(self, accepted: float, rejected: float, keep: float) -> None:
        """Count a round.

        Args:
            keep: the weight of earlier rounds.
        """
        self.accepted = keep * self.accepted + accepted
        self.rejected = keep * self.rejected + rejected

    def share(self, expected: float, weight: float) -> float:
        """The share of accepted drafts, taken together with so many that were accepted as expected."""
        return (self.accepted + weight * expected) / (self.accepted + self.rejected + weight)


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
        """Begin a round: its most drafts; 0 runs a plain step at full depth."""

    def goes_on(self, confidences: Sequence[float], rows: Sequence[Tally]) -> bool:
        """Whether the round drafts one token more.

        Args:
            confidences: by row, the product of its draft probabilities in this round; 1 before the first.
            rows: by row, what became of its drafts.
        """
        return self._threshold is None or sum(confidences) >= self._threshold * len(confidences)

    def observe(self, outcome: Outcome, rows: Sequence[Tally]) -> None:
        """Learn from a round."""
        for row, accepted, rejected in zip(rows, outcome.accepted, outcome.rejected, strict=True):
            row.add(accepted, rejected, _ROW_KEEP)


@final
class FixedLength(DraftLength):
    """The same number in every round, or fewer by the threshold."""

    @property
    def asks(self) -> bool:
        return self._threshold is not None

    def next(self) -> int:
        return self._most


@final
class AdaptiveLength(DraftLength):
    """A round drafts as long as the next draft is expected to gain tokens faster than the round would without it.

    Without drafts a row gains one token in the time of a plain step. A draft gains one more if all before it and itself
    are accepted. The probability of the former is the drafter's confidence, corrected by how often as many drafts were
    accepted when it was as confident; that of the latter is the share of the row's drafts that were accepted, or for a
    row with few of all rows'. Its time is that of a draft and of one more position to verify.

    The first rounds are spent on learning, and later one after every `_EXPLORE` of the other kind.
    """

    def __init__(self, most: int, threshold: float | None = None) -> None:
        super().__init__(most, threshold)
        self._rounds = 0
        # Rounds since the last one with and without drafts.
        self._since = dict.fromkeys((False, True), 0)
        self._all = Tally()
        # By number of drafts: how often all were accepted, and how much more often that was promised.
        self._depths = [Tally() for _ in range(most)]
        # Seconds by number of drafts: to draft, and to verify.
        self._drafting, self._verifying = _Line(), _Line()
        self._round = _Round()

    @property
    def asks(self) -> bool:
        return True

    def next(self) -> int:
        starts = self._rounds < len(_FIRST)
        plain = not _FIRST[self._rounds] if starts else self._since[False] >= _EXPLORE
        self._round = _Round(self._verifying.at_zero, learns=starts or self._since[True] >= _EXPLORE)
        return 0 if plain else self._most

    def goes_on(self, confidences: Sequence[float], rows: Sequence[Tally]) -> bool:
        if not super().goes_on(confidences, rows):
            return False
        gain, seconds = self._gain(confidences, rows), self._drafting.slope + self._verifying.slope
        free = self._round.learns and not self._round.drafts
        if not free and gain * self._round.seconds <= seconds * self._round.tokens:
            return False
        self._round.add(gain, seconds)
        return True

    def observe(self, outcome: Outcome, rows: Sequence[Tally]) -> None:
        super().observe(outcome, rows)
        drafts = outcome.drafted > 0
        self._rounds += 1
        self._since = {kind: 0 if kind == drafts else count + 1 for kind, count in self._since.items()}
        if outcome.usual:
            self._drafting.add(outcome.drafted, outcome.draft_seconds)
            self._verifying.add(outcome.drafted, outcome.verify_seconds)
        if not drafts:
            return
        self._all.add(outcome.mean_accepted, sum(outcome.rejected) / len(outcome.rejected), _REMEMBER)
        for count, promised in enumerate(outcome.promised, 1):
            kept = sum(accepted >= count for accepted in outcome.accepted) / len(outcome.accepted)
            self._depths[count - 1].add(kept, promised - kept, _REMEMBER)

    @property
    def acceptance(self) -> float:
        """The estimated probability that a draft is accepted, over all rows."""
        return self._all.share(0.5, 1.0)

    def _gain(self, confidences: Sequence[float], rows: Sequence[Tally]) -> float:
        """Tokens that the next draft is expected to gain, averaged over rows."""
        drafts, usual = self._round.drafts, self.acceptance
        trust = self._depths[drafts - 1].share(1.0, 1.0) if drafts else 1.0
        gains = [
            min(1.0, trust * confidence) * row.share(usual, _ROW_WEIGHT)
            for confidence, row in zip(confidences, rows, strict=True)
        ]
        return sum(gains) / len(gains)


def chooser(drafting: Drafting) -> DraftLength:
    """A new chooser of the number of drafts."""
    return (AdaptiveLength if drafting.adaptive else FixedLength)(drafting.length, drafting.threshold)


@dataclass
class _Round:
    """What a round is expected to give and take, per row.

    Attributes:
        learns: its first draft need not pay.
    """

    seconds: float = 0.0
    tokens: float = 1.0
    drafts: int = 0
    learns: bool = False

    def add(self, tokens: float, seconds: float) -> None:
        """Count a draft."""
        self.tokens += tokens
        self.seconds += seconds
        self.drafts += 1


class _Line:
    """Least squares of values by a count; recent ones weigh more, and one far above its line counts as less."""

    def __init__(self) -> None:
        self._weight, self._x, self._y, self._xx, self._xy = 0.0, 0.0, 0.0, 0.0, 0.0

    def add(self, x: float, y: float) -> None:
        expected = self.at_zero + self.slope * x
        if self._weight > _KNOWN and expected > 0:
            # The machine was busy with something else.
            y = min(y, _FAR * expected)
        sums = (self._weight, self._x, self._y, self._xx, self._xy)
        new = (1.0, x, y, x * x, x * y)
        self._weight, self._x, self._y, self._xx, self._xy = (
            _REMEMBER * known + one for known, one in zip(sums, new, strict=True)
        )

    @property
    def slope(self) -> float:
        """Not below 0; 0 as long as only one count has occurred."""
        spread = self._weight * self._xx - self._x**2
        return max(0.0, self._weight * self._xy - self._x * self._y) / spread if spread > 1e-6 else 0.0

    @property
    def at_zero(self) -> float:
        """The value for a count of 0."""
        return (self._y - self.slope * self._x) / self._weight if self._weight else 0.0


# Weights of earlier rounds, per round: of times and of what was accepted, and of a row's drafts.
_REMEMBER = 0.97
_ROW_KEEP = 0.9
# A time counts as at most so many times what earlier ones let expect, once their weights add up to so much.
_FAR, _KNOWN = 2.0, 2.5
# As many drafts, accepted like all rows', count with a row's own.
_ROW_WEIGHT = 4.0
# One round is spent on learning after so many of the other kind.
_EXPLORE = 24
# Whether the first rounds draft, to learn acceptance and the cost of a plain step.
_FIRST = (True, False, True)
