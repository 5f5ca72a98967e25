"""Exits drawn at random, to time CALM's batches on random weights, whose confidences are meaningless.

Shapes: B rows, D hidden size.
"""

from collections.abc import Sequence
from typing import final, get_args

import torch
from torch import Tensor

from baselines.confidence import Confidence, softmax_confidence
from skiplab.engine.batch import Batch
from skiplab.engine.policy import AdaptivePolicy, BatchPolicy, ExitPolicy, Head, Propagation
from skiplab.methods.base import ExitModule, Setup
from skiplab.schedules.exit_schedule import LayerPlan, terminate_plan

# Steps after which the drawn numbers repeat, and the most rows of a batch.
_STEPS, _ROWS = 64, 1024


@final
class DrawnDepths(AdaptivePolicy):
    """Draws each row's exit at each step.

    The confidence is computed as in CALM and then ignored, so that its cost is included. Depths are uniform
    around their mean, over the widest range that the layers allow, at most `2 depth - 1`.

    Args:
        depth: the mean, in layers.
    """

    on_device = True

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
        self._confidence = confidence
        self._plan = terminate_plan(num_layers)
        lot_LTB = torch.rand(num_layers, _STEPS, _ROWS, generator=torch.Generator().manual_seed(0))
        self._exits_LTB = lot_LTB < torch.tensor(exit_chances(num_layers, depth))[:, None, None]
        # If exited rows leave, the others move up, and only a layer's own draw is theirs. Otherwise rows stay exited.
        if batch_policy != "compact":
            self._exits_LTB = self._exits_LTB.cummax(0).values
        self._place_B = torch.arange(_ROWS)

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def exits(self, h_BD: Tensor, below_BD: Tensor, *, layer: int, step_B: Tensor, head: Head) -> Tensor:
        self._confidence(h_BD, below_BD, head)
        if self._exits_LTB.device != h_BD.device:
            self._exits_LTB, self._place_B = self._exits_LTB.to(h_BD.device), self._place_B.to(h_BD.device)
        return self._exits_LTB[layer, step_B.to(h_BD.device) % _STEPS, self._place_B[: len(h_BD)]]


def exit_chances(num_layers: int, depth: float) -> list[float]:
    """For each layer, the probability that a row which has reached it exits after it, if its depth is drawn as the
    floor of a uniform number, rounded at random: `floor(U + V)`, with `U` uniform around `depth` and `V` in [0, 1)."""
    width = 2 * min(depth - 1, num_layers - depth)

    def below(bound: float, whole: int) -> float:
        # The integral of the probability max(0, 1 - |u - whole|) of a depth over u up to the bound.
        away = min(max(bound - whole, -1.0), 1.0)
        return (away + 1) ** 2 / 2 if away < 0 else 1 - (1 - away) ** 2 / 2

    def probability(whole: int) -> float:
        if width == 0:
            return max(0.0, 1 - abs(depth - whole))
        return (below(depth + width / 2, whole) - below(depth - width / 2, whole)) / width

    found, left = [], 1.0
    for whole in range(1, num_layers + 1):
        exits = probability(whole)
        found.append(min(1.0, exits / left) if left > 1e-9 else 1.0)
        left -= exits
    return found


@final
class DrawnExit(ExitModule):
    """Decodes the base with exits drawn for a speedup, and computes CALM's softmax response.

    For timing only: its tokens are meaningless.

    Args:
        speedup: the layer speedup of a row on its own.
        batch_policy, propagation: as in `AdaptivePolicy`.
    """

    trains = False

    def __init__(
        self, setup: Setup, *, speedup: float, batch_policy: BatchPolicy = "freeze", propagation: Propagation = "lazy"
    ) -> None:
        super().__init__(setup)
        layers = setup.backbone.num_layers
        if not 1 <= speedup <= layers:
            raise ValueError(f"the speedup of drawn exits must lie between 1 and {layers}, the layers, got {speedup:g}")
        for name, value, known in (
            ("batch_policy", batch_policy, get_args(BatchPolicy)),
            ("propagation", propagation, get_args(Propagation)),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} of drawn exits {value!r}; choose one of {', '.join(known)}")
        self._speedup = speedup
        self._batch_policy: BatchPolicy = batch_policy
        self._propagation: Propagation = propagation

    @property
    def setting(self) -> str:
        named = [f"drawn ~{self._speedup:g}x"]
        named += [self._batch_policy] if self._batch_policy != "freeze" else []
        named += [self._propagation] if self._propagation != "lazy" else []
        return " ".join(named)

    @property
    def target_speedup(self) -> float | None:
        return None

    def loss(self, batch: Batch) -> Tensor:
        raise TypeError("drawn exits decode the base as it is and have no training")

    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        layers = self.backbone.num_layers
        return DrawnDepths(
            layers,
            layers / self._speedup,
            softmax_confidence,
            batch_policy=self._batch_policy,
            propagation=self._propagation,
        )
