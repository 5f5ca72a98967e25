"""CALM: Confident Adaptive Language Modeling (arXiv 2207.07061), on a decoder-only model.

From the multi-layer exit's weights. A row exits at the first layer whose softmax response (top-1
minus top-2 probability, section 3.5) exceeds the threshold; its state is then frozen, and the layers
above compute only keys and values from it (section 3.2), while the other rows go on. The threshold is
constant or decays with the generation step (equation 5).

Deviations: a threshold may be found from a target layer speedup instead of given: from the first
exits in one teacher-forced pass over the validation data, corrected by decoding that data. The speedup
on other data is measured, not promised.
"""

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from baselines.multi_layer import RECIPE, every_layer_loss
from skiplab.backbone import Backbone
from skiplab.batch import IGNORE, Batch
from skiplab.decode import decode
from skiplab.forward import layer_states
from skiplab.module import ExitModule, Setup
from skiplab.policy import AdaptivePolicy, ExitPolicy, Head
from skiplab.schedule import LayerPlan, terminate_plan

# Rounds of decoding the validation data when a threshold is matched to a speedup.
_CORRECTIONS = 3


def softmax_response(logits_NV: Tensor) -> Tensor:
    """Top-1 minus top-2 probability, shape (N,)."""
    top_N2 = logits_NV.float().softmax(-1).topk(2, dim=-1).values
    return top_N2[..., 0] - top_N2[..., 1]


def decayed_threshold(threshold: float, step: int, *, temperature: float, longest: int) -> float:
    """Equation 5: `clip(0.9 threshold + 0.1 exp(-temperature step / longest))` to [0, 1]."""
    return min(1.0, max(0.0, 0.9 * threshold + 0.1 * math.exp(-temperature * step / longest)))


@final
class ConfidenceExit(AdaptivePolicy):
    """Each row exits once its softmax response exceeds the step's threshold.

    Args:
        temperature: of the threshold's decay; None keeps the threshold constant.
        longest: output length that the decay refers to, in tokens.
    """

    def __init__(self, num_layers: int, threshold: float, *, temperature: float | None, longest: int) -> None:
        self.threshold = threshold
        self._temperature = temperature
        self._longest = longest
        self._plan = terminate_plan(num_layers)

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def step_threshold(self, step: int) -> float:
        """The threshold in force at generation step `step`."""
        if self._temperature is None:
            return self.threshold
        return decayed_threshold(self.threshold, step, temperature=self._temperature, longest=self._longest)

    def exits(self, h_BD: Tensor, *, layer: int, step: int, head: Head) -> Tensor:
        threshold = self.step_threshold(step)
        if threshold <= 0:
            return torch.ones(len(h_BD), dtype=torch.bool, device=h_BD.device)
        return softmax_response(head(h_BD)) > threshold


@torch.inference_mode()
def exit_confidences(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    """Softmax response after each layer but the last, teacher-forced at full depth.

    Returns:
        (L - 1, N) confidences of the N target tokens after the first, and their steps (N,).
    """
    kept_BG = batch.target_BG[:, 1:] != IGNORE
    states = list(layer_states(backbone, batch.input_BT, batch.prompt_mask_BP))[:-1]
    confidence = [softmax_response(backbone.head(h_BTD[:, batch.prompt_columns :]))[kept_BG] for h_BTD in states]
    step_BG = torch.arange(1, kept_BG.shape[1] + 1, device=kept_BG.device).expand_as(kept_BG)
    return torch.stack(confidence), step_BG[kept_BG]


def mean_first_exit(confidence_LN: Tensor, threshold_N: Tensor) -> float:
    """Mean number of layers up to the first whose confidence exceeds the threshold; all `L` if none does."""
    exits_LN = confidence_LN > threshold_N
    first_N = torch.where(exits_LN.any(0), exits_LN.int().argmax(0), len(confidence_LN))
    return float((first_N + 1).float().mean())


def decoded_depth(backbone: Backbone, policy: ExitPolicy, batches: Sequence[Batch]) -> float:
    """Layers per token after the first when the batches' prompts are decoded to their targets' lengths."""
    layers = tokens = 0
    for batch in batches:
        prompt_BP = batch.input_BT[:, : batch.prompt_columns]
        prompts = [ids[mask].tolist() for ids, mask in zip(prompt_BP, batch.prompt_mask_BP, strict=True)]
        lengths = (batch.target_BG != IGNORE).sum(1).tolist()
        result = decode(backbone, policy, prompts, max_new_tokens=lengths, eos_id=None, pad_id=0)
        layers += int(result.depth_BT[:, 1:].sum())
        tokens += sum(lengths) - len(lengths)
    return layers / tokens


@final
class CALM(ExitModule):
    """Adaptive exit by softmax response.

    Args:
        threshold: exit threshold in [0, 1]; or
        speedup: a layer speedup to find the threshold for.
        temperature: of the threshold's decay; None keeps it constant.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        threshold: float | None = None,
        speedup: float | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__(setup)
        if (threshold is None) == (speedup is None):
            raise ValueError(f"calm takes either a threshold or a speedup, got {threshold} and {speedup}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"calm's threshold must lie in [0, 1], got {threshold}")
        layers = setup.backbone.num_layers
        if speedup is not None and not 1 <= speedup <= layers:
            raise ValueError(f"calm's speedup must lie between 1 and the {layers} layers, got {speedup}")
        if temperature is not None and temperature < 0:
            raise ValueError(f"calm's temperature must be at least 0, got {temperature}")
        self._threshold = threshold
        self._speedup = speedup
        self._temperature = temperature

    @property
    def setting(self) -> str:
        exits = f"{self._threshold:g}" if self._speedup is None else f"~{self._speedup:g}x"
        return f"softmax {exits}" if self._temperature is None else f"softmax {exits} decaying"

    @property
    def target_speedup(self) -> float | None:
        return None

    @property
    def recipe(self) -> dict[str, Any] | None:
        return RECIPE

    def loss(self, batch: Batch) -> Tensor:
        return every_layer_loss(self.backbone, batch)

    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        if self._threshold is not None:
            return self._policy(self._threshold)
        assert self._speedup is not None
        return self._policy(self._matching_threshold(valid, self.backbone.num_layers / self._speedup))

    def _policy(self, threshold: float) -> ConfidenceExit:
        return ConfidenceExit(
            self.backbone.num_layers, threshold, temperature=self._temperature, longest=max(self.lengths)
        )

    def _matching_threshold(self, valid: Sequence[Batch], depth: float) -> float:
        """The threshold under which decoding `valid` runs about `depth` layers per token.

        Teacher-forced first exits ignore that exits change the states of later tokens, so the depth
        asked of them is corrected by the depth that decoding had.
        """
        confidences, steps = zip(*(exit_confidences(self.backbone, batch) for batch in valid), strict=True)
        confidence_LN, step_N = torch.cat(confidences, dim=1), torch.cat(steps)
        asked = depth
        threshold = self._first_exit_threshold(confidence_LN, step_N, asked)
        for _ in range(_CORRECTIONS):
            asked *= depth / decoded_depth(self.backbone, self._policy(threshold), valid)
            asked = min(max(asked, 1.0), float(self.backbone.num_layers))
            threshold = self._first_exit_threshold(confidence_LN, step_N, asked)
        return threshold

    def _first_exit_threshold(self, confidence_LN: Tensor, step_N: Tensor, depth: float) -> float:
        """The threshold whose mean first exit is `depth` layers, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            policy = self._policy(middle)
            by_step = [policy.step_threshold(step) for step in range(int(step_N.max()) + 1)]
            threshold_N = torch.tensor(by_step, device=step_N.device)[step_N]
            low, high = (middle, high) if mean_first_exit(confidence_LN, threshold_N) < depth else (low, middle)
        return (low + high) / 2
