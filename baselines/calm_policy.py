"""CALM's exits while decoding: where rows may exit, policies, and the oracles of its analysis (arXiv 2207.07061).

Shapes: B rows, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from baselines.calm_threshold import Threshold
from baselines.confidence import Confidence
from skiplab.engine.policy import AdaptivePolicy, BatchPolicy, Head, HindsightPolicy, Propagation
from skiplab.engine.token_choice import greedy
from skiplab.schedules.exit_schedule import LayerPlan, terminate_plan


@final
@dataclass(frozen=True, kw_only=True)
class Exits:
    """Where a row may exit.

    Args:
        first: number of layers that always run, at least 1.
        interval: layers from one exit to the next.
        drawn: how many exits below the last are trained at a step, as `drawn_exits` of `MultiLayerExit`, and of how
            many the classifier learns at a step; None is all.
    """

    first: int = 1
    interval: int = 1
    drawn: int | None = None

    def layers(self, num_layers: int) -> range:
        """Indices of the layers after which a row may exit: the `first`-th layer and every `interval`-th from there.

        Raises:
            ValueError: these leave no exit below the last layer.
        """
        if self.first < 1 or self.interval < 1 or self.first >= num_layers:
            raise ValueError(
                f"calm has no exit: exits.first must lie between 1 and {num_layers - 1} of the {num_layers} layers "
                f"and exits.interval be at least 1, got {self.first} and {self.interval}"
            )
        return range(self.first - 1, num_layers - 1, self.interval)


def _exceeds(confidence: Confidence, threshold: float | Tensor, h_BD: Tensor, below_BD: Tensor, head: Head) -> Tensor:
    """Rows whose confidence exceeds a threshold, one for all or one per row; at threshold 0, all rows."""
    if isinstance(threshold, Tensor):
        threshold = threshold.to(h_BD.device)
        return (confidence(h_BD, below_BD, head) > threshold) | (threshold <= 0)
    if threshold <= 0:
        return torch.ones(len(h_BD), dtype=torch.bool, device=h_BD.device)
    return confidence(h_BD, below_BD, head) > threshold


@final
class ConfidenceExit(AdaptivePolicy):
    """A row exits once its confidence exceeds the step's threshold.

    Args:
        exit_layers: layers after which confidence is measured; None means all but the last.
    """

    on_device = True

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
        """The value that the thresholds of all steps derive from."""
        return self._threshold.value

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def exits(self, h_BD: Tensor, below_BD: Tensor, *, layer: int, step_B: Tensor, head: Head) -> Tensor:
        return _exceeds(self._confidence, self._threshold.by_row(step_B), h_BD, below_BD, head)


@final
class ExactExit(HindsightPolicy):
    """As `ConfidenceExit` with independent rows, but later tokens see the keys and values of full depth.

    The quality difference to `ConfidenceExit` is the cost of propagating states. It saves no time.
    """

    def __init__(self, num_layers: int, threshold: Threshold, confidence: Confidence, exit_layers: range) -> None:
        super().__init__(exact_kv=True)
        self._threshold = threshold
        self._confidence = confidence
        self._exit_layers = exit_layers
        self._plan = terminate_plan(num_layers)

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def exit_depths(self, states: Sequence[Tensor], *, step_B: Tensor, head: Head) -> Tensor:
        threshold = self._threshold.by_row(step_B)
        depth_B = torch.full((len(states[0]),), len(self._plan), device=states[0].device)
        for layer in reversed(self._exit_layers):
            exits_B = _exceeds(self._confidence, threshold, states[layer + 1], states[layer], head)
            depth_B = torch.where(exits_B, layer + 1, depth_B)
        return depth_B


@final
class IdealExit(HindsightPolicy):
    """A row exits at the first exit layer that predicts the top layer's token (the paper's oracle, section 3.3.1).

    No confidence can exit earlier from the same state without changing the token. It saves no time.

    Args:
        exact_kv: as `HindsightPolicy.exact_kv`.
    """

    def __init__(self, num_layers: int, exit_layers: range, *, exact_kv: bool) -> None:
        super().__init__(exact_kv=exact_kv)
        self._exit_layers = exit_layers
        self._plan = terminate_plan(num_layers)

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def exit_depths(self, states: Sequence[Tensor], *, step_B: Tensor, head: Head) -> Tensor:
        top_B = greedy(head(states[-1]))
        depth_B = torch.full_like(top_B, len(self._plan))
        for layer in reversed(self._exit_layers):
            depth_B = torch.where(greedy(head(states[layer + 1])) == top_B, layer + 1, depth_B)
        return depth_B
