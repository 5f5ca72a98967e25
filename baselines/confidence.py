"""Confidence that no further layer is needed, from the state after a layer (CALM, arXiv 2207.07061, section 3.5).

A new confidence measure is a subclass of `ConfidenceMeasure` decorated with `@confidence_measure`; CALM, the names of
its settings and its error messages then include it. A measure that needs training has a probe, as in
`calm_classifier.py`.

Shapes: N tokens, E exit layers, B rows, G generated columns, D hidden size, K and V vocabularies.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch, frequent_targets
from skiplab.engine.parallel_forward import layer_states, start
from skiplab.engine.policy import Head
from skiplab.methods.base import Setup, TrainedModule

Confidence = Callable[[Tensor, Tensor, Head], Tensor]
"""From the state above a layer (N, D), the one below it (N, D) and the head, to confidences (N,)."""


class ConfidenceMeasure(ABC):
    """A kind of confidence with its options. A subclass is a frozen dataclass whose fields are plain values."""

    @abstractmethod
    def words(self) -> list[str]:
        """Parts of a setting's name for options that differ from the defaults."""

    def probes(self, setup: Setup, exit_layers: Sequence[int], drawn: int | None) -> Sequence[TrainedModule]:
        """Small modules to train on the frozen model before the confidence can be computed; none by default.

        Args:
            drawn: how many exit layers take part at a training step; None is all.
        """
        return []

    @abstractmethod
    def confidence(self, backbone: Backbone, valid: Sequence[Batch], probes: Sequence[TrainedModule]) -> Confidence:
        """The confidence itself.

        Args:
            valid: validation batches, for measures that need statistics of them.
            probes: as `probes` gave them, trained.

        Raises:
            ValueError: a probe has not been trained.
        """


Measure = TypeVar("Measure", bound=ConfidenceMeasure)
CONFIDENCE_MEASURES: dict[str, type[ConfidenceMeasure]] = {}
"""By the name that a user gives."""


def confidence_measure(name: str) -> Callable[[type[Measure]], type[Measure]]:
    """Register a class of measures under a name."""

    def register(measure: type[Measure]) -> type[Measure]:
        CONFIDENCE_MEASURES[name] = measure
        return measure

    return register


def softmax_response(logits_NV: Tensor) -> Tensor:
    """Top-1 minus top-2 probability, shape (N,)."""
    top_N2 = logits_NV.float().softmax(-1).topk(2, dim=-1).values
    return top_N2[..., 0] - top_N2[..., 1]


def softmax_confidence(h_ND: Tensor, below_ND: Tensor, head: Head) -> Tensor:
    """Softmax response over the whole vocabulary."""
    return softmax_response(head(h_ND))


def reduced_softmax_confidence(backbone: Backbone, batches: Sequence[Batch], vocabulary: int) -> Confidence:
    """Softmax response over the `vocabulary` most frequent generated tokens of the batches.

    The products with the other rows of the head are not computed. Tokens outside this vocabulary get no
    probability, so the response approximates the one over the whole vocabulary. Deviation from dynamic pruning (arXiv
    2410.18952), which takes the top tokens of each row at its first exit: here one set serves all rows.
    """
    size = backbone.model.config.vocab_size
    reduced = backbone.reduced_head(frequent_targets(batches, vocabulary, vocabulary=size))
    return lambda h_ND, below_ND, head: softmax_response(reduced(h_ND))


def state_saturation(h_ND: Tensor, below_ND: Tensor, head: Head) -> Tensor:
    """Cosine of the states above and below a layer. Below the first layer is the embedding: the paper begins
    at the second."""
    # Rounding can raise the cosine of equal states above 1.
    return F.cosine_similarity(h_ND.float(), below_ND.float(), dim=-1).clamp(max=1.0)


@confidence_measure("softmax")
@final
@dataclass(frozen=True, kw_only=True)
class SoftmaxResponse(ConfidenceMeasure):
    """Top-1 minus top-2 probability.

    Args:
        vocabulary: number of most frequent tokens to compute it over; None means all.
    """

    vocabulary: int | None = None

    def __post_init__(self) -> None:
        if self.vocabulary is not None and self.vocabulary < 2:
            raise ValueError(
                f"calm's vocabulary reduces the softmax response to 2 tokens or more, got {self.vocabulary}"
            )

    def words(self) -> list[str]:
        return [f"of {self.vocabulary} tokens"] if self.vocabulary is not None else []

    def confidence(self, backbone: Backbone, valid: Sequence[Batch], probes: Sequence[TrainedModule]) -> Confidence:
        if self.vocabulary is None:
            return softmax_confidence
        return reduced_softmax_confidence(backbone, valid, self.vocabulary)


@confidence_measure("state")
@final
@dataclass(frozen=True, kw_only=True)
class StateSaturation(ConfidenceMeasure):
    """Cosine of the states above and below a layer."""

    def words(self) -> list[str]:
        return []

    def confidence(self, backbone: Backbone, valid: Sequence[Batch], probes: Sequence[TrainedModule]) -> Confidence:
        return state_saturation


def generated_states(backbone: Backbone, batch: Batch) -> list[Tensor]:
    """States (N, D) of the tokens after the first, teacher-forced at full depth: below the first layer, then after
    each."""
    kept_BG = batch.target_BG[:, 1:] != IGNORE
    below_BTD, _ = start(backbone, batch.input_BT, batch.prompt_mask_BP)
    above = layer_states(backbone, batch.input_BT, batch.prompt_mask_BP)
    return [h_BTD[:, batch.prompt_columns :][kept_BG] for h_BTD in (below_BTD, *above)]


@torch.inference_mode()
def exit_confidences(
    backbone: Backbone, batch: Batch, confidence: Confidence, exit_layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Confidences after each exit layer, teacher-forced at full depth.

    Returns:
        (E, N) confidences of the N target tokens after the first, and their steps (N,).
    """
    states = generated_states(backbone, batch)
    measured = [confidence(states[layer + 1], states[layer], backbone.head) for layer in exit_layers]
    kept_BG = batch.target_BG[:, 1:] != IGNORE
    step_BG = torch.arange(1, kept_BG.shape[1] + 1, device=kept_BG.device).expand_as(kept_BG)
    return torch.stack(measured), step_BG[kept_BG]


def mean_first_exit(confidence_EN: Tensor, threshold_N: Tensor, exit_layers: Sequence[int], num_layers: int) -> float:
    """Mean number of layers up to the first exit whose confidence exceeds the threshold; all if none does."""
    exits_EN = confidence_EN > threshold_N
    depth_E = torch.tensor([layer + 1 for layer in exit_layers], device=exits_EN.device)
    first_N = torch.where(exits_EN.any(0), depth_E[exits_EN.int().argmax(0)], num_layers)
    return float(first_N.float().mean())
