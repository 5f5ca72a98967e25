"""CALM's thresholds: how they decay with the generation step, and the search for one that gives a speedup.

Shapes: E exit layers, N tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from baselines.confidence import Confidence, exit_confidences, mean_first_exit
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch
from skiplab.engine.decode import decode
from skiplab.engine.policy import ExitPolicy
from skiplab.schedules.bisection import bisect

Formula = Literal["paper", "code"]

# Matching a threshold to a speedup: largest number of decoding rounds, relative tolerance, batch size.
_ROUNDS = 4
_NEAR = 0.01
_ROWS = 64


@final
@dataclass(frozen=True, kw_only=True)
class Decay:
    """How a threshold falls with the generation step.

    Args:
        temperature: rate of decay; None keeps the threshold constant.
        formula: `paper`, equation 5: `clip(0.9 value + 0.1 exp(-temperature step / longest))`; or the released
            `code`'s: `0.9 value + 0.1 value exp(-temperature step / longest)`, which never exceeds the value.
    """

    temperature: float | None = None
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"calm's decay temperature must be at least 0, got {self.temperature}")
        if self.formula not in get_args(Formula):
            raise ValueError(
                f"unknown calm decay formula {self.formula!r}; choose one of {', '.join(get_args(Formula))}"
            )


@final
@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The confidence to exceed at each generation step.

    Args:
        value: in [0, 1].
        longest: output length that the decay refers to, in tokens.
    """

    value: float
    decay: Decay = Decay()
    longest: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"calm's threshold must lie in [0, 1], got {self.value}")

    def at(self, step: int) -> float:
        """The threshold in force at generation step `step`."""
        if self.decay.temperature is None:
            return self.value
        factor = self.value if self.decay.formula == "code" else 1.0
        return min(1.0, 0.9 * self.value + 0.1 * factor * math.exp(-self.decay.temperature * step / self.longest))

    def by_row(self, step_B: Tensor) -> float | Tensor:
        """The thresholds in force at each row's step: one number if all steps have the same, else of shape (B,)."""
        if self.decay.temperature is None:
            return self.value
        factor = self.value if self.decay.formula == "code" else 1.0
        fall_B = torch.exp(-self.decay.temperature * step_B.double() / self.longest)
        return (0.9 * self.value + 0.1 * factor * fall_B).clamp(max=1.0).float()


def decoded_depth(backbone: Backbone, policy: ExitPolicy, batches: Sequence[Batch]) -> float:
    """Layers per token after the first when the batches' prompts are decoded to their targets' lengths.

    Args:
        policy: rows must not depend on each other, because they are batched again by length.
    """
    rows: list[tuple[int, list[int]]] = []
    for batch in batches:
        prompt_BP = batch.input_BT[:, : batch.prompt_columns]
        prompts = [ids[mask].tolist() for ids, mask in zip(prompt_BP, batch.prompt_mask_BP, strict=True)]
        rows += zip((batch.target_BG != IGNORE).sum(1).tolist(), prompts, strict=True)
    rows.sort()
    layers = tokens = 0
    for first in range(0, len(rows), _ROWS):
        lengths, prompts = zip(*rows[first : first + _ROWS], strict=True)
        result = decode(backbone, policy, prompts, max_new_tokens=lengths, eos_id=None, pad_id=0)
        layers += int(result.depth_BT[:, 1:].sum())
        tokens += sum(lengths) - len(lengths)
    return layers / tokens


def confidence_quantile(
    backbone: Backbone, confidence: Confidence, exit_layers: Sequence[int], batches: Sequence[Batch], quantile: float
) -> float:
    """The threshold that a share `quantile` of all confidences does not exceed, layers and tokens taken together.

    Confidences are measured in one teacher-forced pass at full depth, so that equal steps of the quantile are about
    equal steps of exits, whatever the measure's scale.
    """
    measured = [exit_confidences(backbone, batch, confidence, exit_layers)[0].flatten() for batch in batches]
    ordered_N = torch.cat(measured).double().sort().values
    found = float(ordered_N[round(quantile * (len(ordered_N) - 1))])
    return min(max(found, 0.0), 1.0)


@final
@dataclass(frozen=True)
class ThresholdMatch:
    """The search for a threshold that gives a mean depth.

    Args:
        exit_layers: layers after which rows may exit.
        threshold: makes the thresholds of all steps from one value.
        policy: makes the policy for a value; its rows do not affect each other.
    """

    backbone: Backbone
    confidence: Confidence
    exit_layers: Sequence[int]
    threshold: Callable[[float], Threshold]
    policy: Callable[[float], ExitPolicy]

    def value_for(self, depth: float, valid: Sequence[Batch]) -> float:
        """The value with which decoding `valid` runs about `depth` layers per token.

        Teacher-forced first exits ignore that exits change the states of later tokens. So each round decodes, and
        corrects the requested depth by the measured depth, until that is within 1%; the closest round is taken.
        """
        measured = [exit_confidences(self.backbone, batch, self.confidence, self.exit_layers) for batch in valid]
        confidences, steps = zip(*measured, strict=True)
        confidence_EN, step_N = torch.cat(confidences, dim=1), torch.cat(steps)
        asked, tried = depth, []
        for _ in range(_ROUNDS):
            value = self._teacher_forced_value(confidence_EN, step_N, asked)
            found = decoded_depth(self.backbone, self.policy(value), valid)
            tried.append((abs(found / depth - 1), value))
            if tried[-1][0] <= _NEAR:
                break
            asked = min(max(asked * depth / found, 1.0), float(self.backbone.num_layers))
        return min(tried)[1]

    def _teacher_forced_value(self, confidence_EN: Tensor, step_N: Tensor, depth: float) -> float:
        """The value whose mean first exit is `depth` layers."""

        def too_shallow(value: float) -> bool:
            by_step = [self.threshold(value).at(step) for step in range(int(step_N.max()) + 1)]
            threshold_N = torch.tensor(by_step, device=step_N.device)[step_N]
            return mean_first_exit(confidence_EN, threshold_N, self.exit_layers, self.backbone.num_layers) < depth

        low, high = bisect(too_shallow, 0.0, 1.0, halvings=30)
        return (low + high) / 2
