"""CALM's exits while decoding: thresholds by step, policies, and the oracles of its analysis (arXiv 2207.07061).

Shapes: B rows, D hidden size, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from baselines.confidence import Confidence
from skiplab.engine.policy import AdaptivePolicy, BatchPolicy, Head, HindsightPolicy, Propagation
from skiplab.schedules.exit_schedule import LayerPlan, terminate_plan

Formula = Literal["paper", "code"]


def exits_after(num_layers: int, first: int, interval: int) -> range:
    """Indices of the layers after which a row may exit: the `first`-th layer and every `interval`-th from there.

    Raises:
        ValueError: these leave no exit below the last layer.
    """
    if first < 1 or interval < 1 or first >= num_layers:
        raise ValueError(
            f"calm's first_exit and exit_interval leave no exit: first_exit must lie between 1 and {num_layers - 1} "
            f"of the {num_layers} layers and exit_interval be at least 1, got {first} and {interval}"
        )
    return range(first - 1, num_layers - 1, interval)


@final
@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The confidence to exceed at each generation step.

    Args:
        value: in [0, 1].
        temperature: of the decay with the step; None keeps the threshold constant.
        longest: output length that the decay refers to, in tokens.
        formula: `paper`, equation 5: `clip(0.9 value + 0.1 exp(-temperature step / longest))`; or the released
            `code`'s: `0.9 value + 0.1 value exp(-temperature step / longest)`, which never exceeds the value.
    """

    value: float
    temperature: float | None = None
    longest: int = 1
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"calm's threshold must lie in [0, 1], got {self.value}")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"calm's temperature must be at least 0, got {self.temperature}")
        if self.formula not in get_args(Formula):
            raise ValueError(f"unknown calm decay {self.formula!r}; choose one of {', '.join(get_args(Formula))}")

    def at(self, step: int) -> float:
        """The threshold in force at generation step `step`."""
        if self.temperature is None:
            return self.value
        factor = self.value if self.formula == "code" else 1.0
        return min(1.0, 0.9 * self.value + 0.1 * factor * math.exp(-self.temperature * step / self.longest))


def _exceeds(confidence: Confidence, threshold: float, h_BD: Tensor, below_BD: Tensor, head: Head) -> Tensor:
    """Rows whose confidence exceeds a threshold; at 0 all do, whatever their confidence."""
    if threshold <= 0:
        return torch.ones(len(h_BD), dtype=torch.bool, device=h_BD.device)
    return confidence(h_BD, below_BD, head) > threshold


@final
class ConfidenceExit(AdaptivePolicy):
    """A row exits once its confidence exceeds the step's threshold.

    Args:
        exit_layers: layers after which it is measured; None is all but the last.
    """

    def __init__(
        self,
        num_layers: int,
        threshold: Threshold,
        confidence: Confidence,
        *,
        exit_layers: range | None = None,
        batch_policy: BatchPolicy = "freeze",
        propagation: Propagation = "lazy",
    ) -> None:
        exits = exit_layers or range(num_layers - 1)
        super().__init__(exits, batch_policy=batch_policy, propagation=propagation)
        self._threshold = threshold
        self._confidence = confidence
        self._plan = terminate_plan(num_layers)

    @property
    def threshold(self) -> float:
        """What the thresholds by step are made from."""
        return self._threshold.value

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def exits(self, h_BD: Tensor, below_BD: Tensor, *, step: int, head: Head) -> Tensor:
        return _exceeds(self._confidence, self._threshold.at(step), h_BD, below_BD, head)


@final
class DrawnExit(AdaptivePolicy):
    """For speed at random weights, whose confidences say nothing: each row's exit at each step is drawn.

    The confidence is computed where it would be and not heeded, so that the price of asking is paid. Depths are
    uniform about their mean and as wide as the layers allow, at most `2 depth - 1`.

    Args:
        depth: the mean, in layers.
    """

    def __init__(
        self,
        num_layers: int,
        depth: float,
        confidence: Confidence,
        *,
        batch_policy: BatchPolicy = "freeze",
        propagation: Propagation = "lazy",
    ) -> None:
        super().__init__(range(num_layers - 1), batch_policy=batch_policy, propagation=propagation)
        self._half_width = min(depth - 1, num_layers - depth)
        self._mean = depth
        self._confidence = confidence
        self._plan = terminate_plan(num_layers)
        self._step = self._layers_run = self._deepest = 0
        self._depth_B = torch.empty(0)
        self._lot = torch.Generator().manual_seed(0)

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def exits(self, h_BD: Tensor, below_BD: Tensor, *, step: int, head: Head) -> Tensor:
        self._confidence(h_BD, below_BD, head)
        if step != self._step or self._layers_run >= min(self._deepest, len(self._plan) - 1):
            self._draw(len(h_BD), step)
        self._layers_run += 1
        exits_B = self._depth_B <= self._layers_run
        if self.batch_policy == "compact":
            self._depth_B = self._depth_B[~exits_B]
        return exits_B.to(h_BD.device)

    def _draw(self, rows: int, step: int) -> None:
        drawn_B = self._mean + self._half_width * (2 * torch.rand(rows, generator=self._lot) - 1)
        # Rounded up or down by lot too, which keeps the mean.
        self._depth_B = (drawn_B + torch.rand(rows, generator=self._lot)).floor()
        self._deepest = int(self._depth_B.max())
        self._step, self._layers_run = step, 0


@final
class ExactExit(HindsightPolicy):
    """As `ConfidenceExit` with rows on their own, but later tokens see the full pass's keys and values.

    What this keeps and `ConfidenceExit` loses is what propagation costs. It saves no time.
    """

    def __init__(self, num_layers: int, threshold: Threshold, confidence: Confidence, exit_layers: range) -> None:
        super().__init__(exact_kv=True)
        self._threshold = threshold
        self._confidence = confidence
        self._exit_layers = exit_layers
        self._plan = terminate_plan(num_layers)

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def exit_depths(self, states: Sequence[Tensor], *, step: int, head: Head) -> Tensor:
        threshold = self._threshold.at(step)
        depth_B = torch.full((len(states[0]),), len(self._plan), device=states[0].device)
        for layer in reversed(self._exit_layers):
            exits_B = _exceeds(self._confidence, threshold, states[layer + 1], states[layer], head)
            depth_B = torch.where(exits_B, layer + 1, depth_B)
        return depth_B


@final
class IdealExit(HindsightPolicy):
    """A row exits at the first exit layer whose prediction is the top layer's (the paper's oracle, section 3.3.1).

    The least depth that any confidence could reach without changing a token for the state at hand. It
    saves no time.

    Args:
        exact_kv: as `HindsightPolicy.exact_kv`.
    """

    def __init__(self, num_layers: int, exit_layers: range, *, exact_kv: bool) -> None:
        super().__init__(exact_kv=exact_kv)
        self._exit_layers = exit_layers
        self._plan = terminate_plan(num_layers)

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def exit_depths(self, states: Sequence[Tensor], *, step: int, head: Head) -> Tensor:
        top_B = head(states[-1]).argmax(-1)
        depth_B = torch.full_like(top_B, len(self._plan))
        for layer in reversed(self._exit_layers):
            depth_B = torch.where(head(states[layer + 1]).argmax(-1) == top_B, layer + 1, depth_B)
        return depth_B
