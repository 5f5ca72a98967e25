"""Options and results of a calibration."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final, get_args

from skiplab.evaluation.consistency import Consistency
from skiplab.evaluation.learn_then_test import PValue, check_attainable, fixed_sequence, items_needed, p_value
from skiplab.utils.suggestions import did_you_mean, suggestion


@final
@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """The guarantee: on new items the expected loss is at most `delta`, with probability at least 1 - `epsilon`.

    It holds for one setting, and for items drawn from the distribution of the calibration items: not for the best of
    several calibrated settings, nor for test sets of another kind. Everything that settings depend on (output lengths,
    quantiles of confidences, searched plans) comes from other items, `TextData.rows("selection")`.

    Args:
        delta: bounds on the expected loss, each a setting of its own.
        epsilon: upper bound on the probability that the guarantee fails, over draws of the calibration items.
        consistency: the loss, as in `consistency.consistency_losses`.
        metric: the metric of `risk`: a figure of item scores in [0, 1].
        p_value: the test, as in `risk.p_value`; `binomial` is for the `exact` loss.
        reference: the full model to lose against: the shared `base`, or the method's `own` weights at full depth,
            as CALM has it.
    """

    delta: list[float]
    epsilon: float = 0.05
    consistency: Consistency = "risk"
    metric: str = "rouge_l"
    p_value: PValue = "hoeffding_bentkus"
    reference: Literal["base", "own"] = "base"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("consistency", self.consistency, get_args(Consistency)),
            ("p_value", self.p_value, get_args(PValue)),
            ("reference", self.reference, ("base", "own")),
        ):
            if value not in known:
                raise ValueError(f"unknown calibration {name} {value!r}{suggestion(value, known)}")
        for delta in self.delta:
            self._needed(delta)
        if self.p_value == "binomial" and self.consistency != "exact":
            raise ValueError(
                f"calibration p_value binomial is for losses of 0 or 1: use consistency=exact, or "
                f"p_value=hoeffding_bentkus with {self.consistency}"
            )

    def attainable(self, items: int) -> "CalibrationSpec":
        """A copy with only the deltas that this number of calibration items can certify."""
        return replace(self, delta=[delta for delta in self.delta if items >= self._needed(delta)])

    def check_items(self, items: int) -> None:
        """Refuse a delta that this number of calibration items cannot certify.

        Raises:
            ValueError: the message says how many items it would take.
        """
        for delta in self.delta:
            check_attainable(items, delta, self.epsilon, self.p_value)

    def _needed(self, delta: float) -> int:
        return items_needed(delta, self.epsilon, self.p_value)

    def check_metric(self, metrics: Collection[str]) -> None:
        """Refuse a metric that is not measured.

        Args:
            metrics: the figures of item scores in [0, 1] that there are.

        Raises:
            ValueError: the message says which there are.
        """
        if self.metric not in metrics:
            raise ValueError(
                f"calibration metric must be one of {', '.join(metrics)} for this data, got {self.metric!r}"
                f"{did_you_mean(self.metric, metrics)}"
            )


@dataclass(frozen=True)
class Tested:
    """One hypothesis that was tested.

    Attributes:
        setting: which.
        loss: mean loss over the calibration items.
        p_value: of "its expected loss is above delta".
        layer_speedup: on the calibration items.
    """

    setting: str
    loss: float
    p_value: float
    layer_speedup: float


@dataclass(frozen=True)
class Verdict:
    """The result of a calibration.

    Attributes:
        chosen: index of the fastest certified hypothesis; None if none is certified, which means full depth.
        tested: the hypotheses in their order, up to the first that failed.
        reason: why none is certified; empty if one is.
    """

    chosen: int | None
    tested: list[Tested]
    reason: str = ""


def certify(
    hypotheses: Sequence[str],
    measure: Callable[[int], tuple[Sequence[float], float]],
    *,
    delta: float,
    spec: CalibrationSpec,
) -> Verdict:
    """Learn then Test by fixed sequence (CALM, arXiv 2207.07061, algorithm 1).

    Args:
        hypotheses: names of the settings, from the slowest to the fastest.
        measure: item losses and layer speedup of a setting by its index; not called after the first that fails.
    """
    tested: list[Tested] = []

    def p_values() -> Iterator[float]:
        for place, setting in enumerate(hypotheses):
            losses, speedup = measure(place)
            found = p_value(losses, delta, spec.p_value)
            tested.append(Tested(setting, sum(losses) / len(losses), found, speedup))
            yield found

    passed = fixed_sequence(p_values(), spec.epsilon)
    if passed:
        return Verdict(passed - 1, tested)
    first = tested[0]
    reason = f"{first.setting} has a mean loss of {first.loss:.3f}, p={first.p_value:.3g} above {spec.epsilon:g}"
    return Verdict(None, tested, reason)


def stored(verdict: Verdict, delta: float, spec: CalibrationSpec, items: int, params: Any) -> dict[str, Any]:
    """A verdict as plain values, to be kept with the weights.

    Args:
        items: number of calibration items.
        params: hyperparameters of the chosen setting; None is full depth.
    """
    return {
        **vars(spec),
        "delta": delta,
        "items": items,
        "chosen": params if params is not None else "full depth",
        "tested": [vars(one) for one in verdict.tested],
        **({"not_certified": verdict.reason} if verdict.reason else {}),
    }
