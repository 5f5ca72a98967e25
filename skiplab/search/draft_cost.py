"""A cost model of rounds of drafts: decode speed from the acceptance of drafts, their number and their depth.

A round of `k` drafts with `d` layers takes `c0 + c1 k + c2 k d` times as long as a step at full depth: a verification
of one position; for each draft, the head and one more verified position; and the layers that draft. With acceptance `a`
it yields `(1 - a^(k+1)) / (1 - a)` tokens (Leviathan et al., arXiv 2211.17192, equation 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from skiplab.engine.draft_length import expected_tokens


@final
@dataclass(frozen=True)
class Measured:
    """A drafter without a threshold.

    Attributes:
        length: drafts per round.
        depth: layers that draft.
        agreement: share of teacher-forced tokens at which the drafter's choice is the full model's.
        tokens: per verification.
        speedup: of decoding, relative to full depth.
    """

    length: int
    depth: int
    agreement: float
    tokens: float
    speedup: float

    @property
    def round_time(self) -> float:
        """Of a round, in steps at full depth."""
        return self.tokens / self.speedup


@final
@dataclass(frozen=True)
class DraftCosts:
    """The model's constants, in steps at full depth; none is negative."""

    verification: float
    draft: float
    layer: float

    @classmethod
    def fitted(cls, measured: Sequence[Measured]) -> Self:
        """Least squares of the rounds' times."""
        columns = np.array([[1, one.length, one.length * one.depth] for one in measured], dtype=float)
        times = np.array([one.round_time for one in measured])
        constants, _ = nnls(columns, times)
        return cls(*map(float, constants))

    def speedup(self, agreement: float, length: int, depth: int) -> float:
        """Predicted decode speed relative to full depth."""
        seconds = self.verification + length * (self.draft + self.layer * depth)
        return expected_tokens(agreement, length) / seconds


@final
@dataclass(frozen=True)
class ModelErrors:
    """How well the model predicts drafters that it was not fitted to.

    Attributes:
        median: of the relative errors of the predicted speeds.
        largest: of them.
        rank_of_speeds: Spearman's correlation of predicted and measured speed.
        rank_of_agreement: Spearman's correlation of teacher-forced agreement and measured speed, over all drafters.
        held_out: number of drafters that it was not fitted to.
    """

    median: float
    largest: float
    rank_of_speeds: float
    rank_of_agreement: float
    held_out: int


def evaluated(measured: Sequence[Measured]) -> tuple[DraftCosts, ModelErrors] | None:
    """The model fitted to every second drafter, and its errors for the others; None if there are fewer than eight."""
    if len(measured) < 8:
        return None
    costs, others = DraftCosts.fitted(measured[::2]), measured[1::2]
    predicted = [costs.speedup(one.agreement, one.length, one.depth) for one in others]
    errors = [abs(guess / one.speedup - 1) for guess, one in zip(predicted, others, strict=True)]
    return costs, ModelErrors(
        median=float(np.median(errors)),
        largest=max(errors),
        rank_of_speeds=_spearman(predicted, [one.speedup for one in others]),
        rank_of_agreement=_spearman([one.agreement for one in measured], [one.speedup for one in measured]),
        held_out=len(others),
    )


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Nan if all values on one side are equal."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    return float(np.asarray(spearmanr(first, second))[0])
