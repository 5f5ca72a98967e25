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


@final
class DrawnDepths(AdaptivePolicy):
    """Draws each row's exit at each step.

    The confidence is computed as in CALM and then ignored, so that its cost is included. Depths are uniform
    around their mean, over the widest range that the layers allow, at most `2 depth - 1`.

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

    def exits(self, h_BD: Tensor, below_BD: Tensor, *, step_B: Tensor, head: Head) -> Tensor:
        self._confidence(h_BD, below_BD, head)
        step = int(step_B.max())
        if step != self._step or self._layers_run >= min(self._deepest, len(self._plan) - 1):
            self._draw(len(h_BD), step)
        self._layers_run += 1
        exits_B = self._depth_B <= self._layers_run
        if self.batch_policy == "compact":
            self._depth_B = self._depth_B[~exits_B]
        return exits_B.to(h_BD.device)

    def _draw(self, rows: int, step: int) -> None:
        drawn_B = self._mean + self._half_width * (2 * torch.rand(rows, generator=self._lot) - 1)
        # Stochastic rounding keeps the mean.
        self._depth_B = (drawn_B + torch.rand(rows, generator=self._lot)).floor()
        self._deepest = int(self._depth_B.max())
        self._step, self._layers_run = step, 0


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
