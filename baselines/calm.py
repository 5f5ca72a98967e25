"""CALM: Confident Adaptive Language Modeling (arXiv 2207.07061), on a decoder-only model.

From the multi-layer exit's weights. A row exits at the first layer whose confidence exceeds the
threshold: softmax response (top-1 minus top-2 probability) or hidden-state saturation (cosine of the
states below and above the layer), both of section 3.5. Its state is then frozen, and the layers above
compute only keys and values from it (section 3.2), while the other rows go on; or the whole batch
waits for its least confident row. The threshold is constant or decays with the generation step
(equation 5).

Deviations: a threshold may be found from a target layer speedup instead of given: from the first
exits in one teacher-forced pass over the validation data, corrected by decoding that data. The speedup
on other data is measured, not promised.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.multi_layer import RECIPE, every_layer_loss
from skiplab.backbone import Backbone
from skiplab.batch import IGNORE, Batch
from skiplab.decode import decode
from skiplab.forward import embedded, layer_states
from skiplab.module import ExitModule, Setup
from skiplab.policy import AdaptivePolicy, BatchPolicy, ExitPolicy, Head
from skiplab.schedule import LayerPlan, terminate_plan

Measure = Literal["softmax", "state"]

# Rounds of decoding the validation data when a threshold is matched to a speedup.
_CORRECTIONS = 3


def softmax_response(logits_NV: Tensor) -> Tensor:
    """Top-1 minus top-2 probability, shape (N,)."""
    top_N2 = logits_NV.float().softmax(-1).topk(2, dim=-1).values
    return top_N2[..., 0] - top_N2[..., 1]


def state_saturation(h_ND: Tensor, below_ND: Tensor) -> Tensor:
    """Cosine of the states above and below a layer, shape (N,)."""
    return F.cosine_similarity(h_ND.float(), below_ND.float(), dim=-1)


def confidence(measure: Measure, h_ND: Tensor, below_ND: Tensor, head: Head) -> Tensor:
    """Confidence that a layer's state needs no further layer, shape (N,)."""
    return softmax_response(head(h_ND)) if measure == "softmax" else state_saturation(h_ND, below_ND)


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


def decayed_threshold(threshold: float, step: int, *, temperature: float, longest: int) -> float:
    """Equation 5: `clip(0.9 threshold + 0.1 exp(-temperature step / longest))` to [0, 1]."""
    return min(1.0, max(0.0, 0.9 * threshold + 0.1 * math.exp(-temperature * step / longest)))


@final
class ConfidenceExit(AdaptivePolicy):
    """A row exits once its confidence exceeds the step's threshold.

    Args:
        exit_layers: layers after which it is measured.
        temperature: of the threshold's decay; None keeps the threshold constant.
        longest: output length that the decay refers to, in tokens.
    """

    def __init__(
        self,
        num_layers: int,
        threshold: float,
        *,
        measure: Measure = "softmax",
        exit_layers: range | None = None,
        batch_policy: BatchPolicy = "freeze",
        temperature: float | None = None,
        longest: int = 1,
    ) -> None:
        self.threshold = threshold
        self._measure: Measure = measure
        self._exit_layers = exit_layers or range(num_layers - 1)
        self._batch_policy: BatchPolicy = batch_policy
        self._temperature = temperature
        self._longest = longest
        self._plan = terminate_plan(num_layers)

    @property
    def exit_layers(self) -> range:
        return self._exit_layers

    @property
    def batch_policy(self) -> BatchPolicy:
        return self._batch_policy

    def plan(self, step: int) -> LayerPlan:
        return self._plan

    def step_threshold(self, step: int) -> float:
        """The threshold in force at generation step `step`."""
        if self._temperature is None:
            return self.threshold
        return decayed_threshold(self.threshold, step, temperature=self._temperature, longest=self._longest)

    def exits(self, h_BD: Tensor, below_BD: Tensor, *, step: int, head: Head) -> Tensor:
        threshold = self.step_threshold(step)
        if threshold <= 0:
            return torch.ones(len(h_BD), dtype=torch.bool, device=h_BD.device)
        return confidence(self._measure, h_BD, below_BD, head) > threshold


@torch.inference_mode()
def exit_confidences(backbone: Backbone, batch: Batch, measure: Measure, exit_layers: range) -> tuple[Tensor, Tensor]:
    """Confidence after each exit layer (E of them), teacher-forced at full depth.

    Returns:
        (E, N) confidences of the N target tokens after the first, and their steps (N,).
    """
    kept_BG = batch.target_BG[:, 1:] != IGNORE
    states = [h_BTD[:, batch.prompt_columns :][kept_BG] for h_BTD in _states_from_embedding(backbone, batch)]
    measured = [confidence(measure, states[layer + 1], states[layer], backbone.head) for layer in exit_layers]
    step_BG = torch.arange(1, kept_BG.shape[1] + 1, device=kept_BG.device).expand_as(kept_BG)
    return torch.stack(measured), step_BG[kept_BG]


def _states_from_embedding(backbone: Backbone, batch: Batch) -> Iterator[Tensor]:
    """The state that the first layer takes, then the state after each layer."""
    yield embedded(backbone, batch.input_BT, batch.prompt_mask_BP)
    yield from layer_states(backbone, batch.input_BT, batch.prompt_mask_BP)


def mean_first_exit(confidence_EN: Tensor, threshold_N: Tensor, exit_layers: range, num_layers: int) -> float:
    """Mean number of layers up to the first exit whose confidence exceeds the threshold; all if none does."""
    exits_EN = confidence_EN > threshold_N
    depth_E = torch.tensor([layer + 1 for layer in exit_layers], device=exits_EN.device)
    first_N = torch.where(exits_EN.any(0), depth_E[exits_EN.int().argmax(0)], num_layers)
    return float(first_N.float().mean())


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
    """Adaptive exit by confidence.

    Args:
        threshold: exit threshold in [0, 1]; or
        speedup: a layer speedup to find the threshold for.
        temperature: of the threshold's decay; None keeps it constant.
        measure: `softmax` response or `state` saturation.
        first_exit: number of layers that always run, at least 1.
        exit_interval: layers from one exit to the next.
        batch_policy: `freeze` rows one by one, or let all wait for the least confident (`min`).
    """

    def __init__(
        self,
        setup: Setup,
        *,
        threshold: float | None = None,
        speedup: float | None = None,
        temperature: float | None = None,
        measure: Measure = "softmax",
        first_exit: int = 1,
        exit_interval: int = 1,
        batch_policy: BatchPolicy = "freeze",
    ) -> None:
        super().__init__(setup)
        for name, value, known in (
            ("measure", measure, get_args(Measure)),
            ("batch_policy", batch_policy, get_args(BatchPolicy)),
        ):
            if value not in known:
                raise ValueError(f"unknown calm {name} {value!r}; choose one of {', '.join(known)}")
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
        self._measure: Measure = measure
        self._exit_layers = exits_after(layers, first_exit, exit_interval)
        self._batch_policy: BatchPolicy = batch_policy

    @property
    def setting(self) -> str:
        exits = f"{self._threshold:g}" if self._speedup is None else f"~{self._speedup:g}x"
        name = f"{self._measure} {exits}"
        name = name if self._batch_policy == "freeze" else f"{name} {self._batch_policy}"
        return name if self._temperature is None else f"{name} decaying"

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
            self.backbone.num_layers,
            threshold,
            measure=self._measure,
            exit_layers=self._exit_layers,
            batch_policy=self._batch_policy,
            temperature=self._temperature,
            longest=max(self.lengths),
        )

    def _matching_threshold(self, valid: Sequence[Batch], depth: float) -> float:
        """The threshold under which decoding `valid` runs about `depth` layers per token.

        Teacher-forced first exits ignore that exits change the states of later tokens, so the depth
        asked of them is corrected by the depth that decoding had.
        """
        measured = [exit_confidences(self.backbone, batch, self._measure, self._exit_layers) for batch in valid]
        confidences, steps = zip(*measured, strict=True)
        confidence_EN, step_N = torch.cat(confidences, dim=1), torch.cat(steps)
        asked = depth
        threshold = self._first_exit_threshold(confidence_EN, step_N, asked)
        for _ in range(_CORRECTIONS):
            asked *= depth / decoded_depth(self.backbone, self._policy(threshold), valid)
            asked = min(max(asked, 1.0), float(self.backbone.num_layers))
            threshold = self._first_exit_threshold(confidence_EN, step_N, asked)
        return threshold

    def _first_exit_threshold(self, confidence_EN: Tensor, step_N: Tensor, depth: float) -> float:
        """The threshold whose mean first exit is `depth` layers, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            policy = self._policy(middle)
            by_step = [policy.step_threshold(step) for step in range(int(step_N.max()) + 1)]
            threshold_N = torch.tensor(by_step, device=step_N.device)[step_N]
            low, high = (middle, high) if self._first_exits(confidence_EN, threshold_N) < depth else (low, middle)
        return (low + high) / 2

    def _first_exits(self, confidence_EN: Tensor, threshold_N: Tensor) -> float:
        return mean_first_exit(confidence_EN, threshold_N, self._exit_layers, self.backbone.num_layers)
