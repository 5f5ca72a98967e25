"""CALM: Confident Adaptive Language Modeling (arXiv 2207.07061), on a decoder-only model.

From the multi-layer exit's weights. A row exits at the first layer whose confidence exceeds the
threshold: softmax response, hidden-state saturation, or a learned classifier (section 3.5). The layers
above compute only keys and values from the state in which it left (section 3.2). In a batch each row
freezes on its own, or leaves the computation, or all wait for the least confident. The threshold is
constant or decays with the generation step (equation 5).

Deviations: a confidence must exceed the threshold, where the paper lets it reach it, so that a constant
threshold of 1 is full depth. A threshold may be found from a target layer speedup instead of given: from
the first exits in one teacher-forced pass over the validation data, corrected by decoding that data. The
speedup on other data is measured, not promised.
"""

from collections.abc import Sequence
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor

from baselines.calm_classifier import ClassifierLoss, ExitClassifier
from baselines.calm_policy import ConfidenceExit, DrawnExit, ExactExit, Formula, IdealExit, Threshold, exits_after
from baselines.confidence import (
    Confidence,
    exit_confidences,
    mean_first_exit,
    reduced_softmax_confidence,
    softmax_confidence,
    state_saturation,
)
from baselines.multi_layer import RECIPE, every_layer_loss
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch
from skiplab.engine.decode import decode
from skiplab.engine.policy import BatchPolicy, ExitPolicy
from skiplab.methods.base import ExitModule, Setup

Measure = Literal["softmax", "state", "classifier", "ideal", "drawn"]
KeysAndValues = Literal["lazy", "eager", "exact"]

# When a threshold is matched to a speedup: rounds of decoding at most, how near is enough, rows at a time.
_ROUNDS = 4
_NEAR = 0.01
_ROWS = 64


def decoded_depth(backbone: Backbone, policy: ExitPolicy, batches: Sequence[Batch]) -> float:
    """Layers per token after the first when the batches' prompts are decoded to their targets' lengths.

    Args:
        policy: one whose rows do not depend on each other; they are batched anew, by length.
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


@final
class CALM(ExitModule):
    """Adaptive exit by confidence.

    Args:
        threshold: exit threshold in [0, 1]; or
        speedup: a layer speedup to find the threshold for.
        temperature: of the threshold's decay; None keeps it constant.
        decay: the decay's formula, the `paper`'s or the released `code`'s.
        measure: `softmax` response, `state` saturation, a learned `classifier`; for analysis, the `ideal` exit
            at the first layer that predicts what the top one does (it takes neither threshold nor speedup); or, for
            speed at random weights, exits `drawn` for a speedup at the price of the softmax response.
        vocabulary: so many of the most frequent tokens are enough for the softmax response; None takes all.
        classifier_loss: `independent` or `geometric`.
        first_exit: number of layers that always run, at least 1.
        exit_interval: layers from one exit to the next.
        batch_policy: `freeze`, `min` or `compact`, as in `AdaptivePolicy`.
        propagation: `lazy` or `eager` keys and values, as in `AdaptivePolicy`; or, for analysis, `exact` ones of
            the full pass, with rows on their own.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        threshold: float | None = None,
        speedup: float | None = None,
        temperature: float | None = None,
        decay: Formula = "paper",
        measure: Measure = "softmax",
        vocabulary: int | None = None,
        classifier_loss: ClassifierLoss = "independent",
        first_exit: int = 1,
        exit_interval: int = 1,
        batch_policy: BatchPolicy = "freeze",
        propagation: KeysAndValues = "lazy",
    ) -> None:
        for name, value, known in (
            ("measure", measure, get_args(Measure)),
            ("batch_policy", batch_policy, get_args(BatchPolicy)),
            ("propagation", propagation, get_args(KeysAndValues)),
        ):
            if value not in known:
                raise ValueError(f"unknown calm {name} {value!r}; choose one of {', '.join(known)}")
        layers = setup.backbone.num_layers
        exit_layers = exits_after(layers, first_exit, exit_interval)
        classifier = ExitClassifier(setup, exit_layers, classifier_loss)
        super().__init__(setup, probes=[classifier] if measure == "classifier" else [])
        if measure == "ideal" and (threshold, speedup, temperature) != (None, None, None):
            raise ValueError(
                f"calm's ideal exit takes neither threshold, speedup nor temperature, got {threshold}, {speedup} and "
                f"{temperature}"
            )
        if measure != "ideal" and (threshold is None) == (speedup is None):
            raise ValueError(f"calm takes either a threshold or a speedup, got {threshold} and {speedup}")
        plain = temperature is None and exit_layers == range(layers - 1) and propagation != "exact"
        if measure == "drawn" and (speedup is None or not plain):
            raise ValueError(
                f"calm's drawn exits take a speedup, every layer as an exit, no temperature and no exact propagation; "
                f"got speedup {speedup}, exits {exit_layers}, temperature {temperature}, propagation {propagation}"
            )
        if speedup is not None and not 1 <= speedup <= layers / first_exit:
            raise ValueError(
                f"calm's speedup must lie between 1 and {layers / first_exit:g}, that of exits after {first_exit} of "
                f"{layers} layers, got {speedup:g}"
            )
        if vocabulary is not None and (measure != "softmax" or vocabulary < 2):
            raise ValueError(
                f"calm's vocabulary reduces the softmax response to 2 tokens or more, got {vocabulary} with {measure}"
            )
        if batch_policy != "freeze" and (measure == "ideal" or propagation == "exact"):
            raise ValueError(
                f"calm's oracles let rows exit on their own: batch_policy must be freeze, got {batch_policy}"
            )
        Threshold(value=threshold or 0.0, temperature=temperature, formula=decay)
        self._threshold = threshold
        self._speedup = speedup
        self._temperature = temperature
        self._decay: Formula = decay
        self._measure: Measure = measure
        self._vocabulary = vocabulary
        self._classifier_loss: ClassifierLoss = classifier_loss
        self._exit_layers = exit_layers
        self._batch_policy: BatchPolicy = batch_policy
        self._propagation: KeysAndValues = propagation

    @property
    def setting(self) -> str:
        named: list[str] = [self._measure]
        named += [f"{self._threshold:g}"] if self._threshold is not None else []
        named += [f"~{self._speedup:g}x"] if self._speedup is not None else []
        named += [f"of {self._vocabulary} tokens"] if self._vocabulary else []
        named += ["geometric"] if self._measure == "classifier" and self._classifier_loss == "geometric" else []
        named += [f"from layer {self._exit_layers.start + 1}"] if self._exit_layers.start else []
        named += [f"every {self._exit_layers.step} layers"] if self._exit_layers.step > 1 else []
        named += [self._batch_policy] if self._batch_policy != "freeze" else []
        named += [self._propagation] if self._propagation != "lazy" else []
        named += [f"decaying {self._temperature:g}"] if self._temperature is not None else []
        named += ["by code"] if self._decay == "code" else []
        return " ".join(named)

    @property
    def target_speedup(self) -> float | None:
        return None

    @property
    def recipe(self) -> dict[str, Any] | None:
        return RECIPE

    def loss(self, batch: Batch) -> Tensor:
        return every_layer_loss(self.backbone, batch)

    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        """The policy to decode with.

        Raises:
            ValueError: the classifier has not been trained.
        """
        layers = self.backbone.num_layers
        if self._measure == "ideal":
            return IdealExit(layers, self._exit_layers, exact_kv=self._propagation == "exact")
        if self._measure == "drawn":
            assert self._speedup is not None
            assert self._propagation != "exact"
            return DrawnExit(
                layers,
                layers / self._speedup,
                softmax_confidence,
                batch_policy=self._batch_policy,
                propagation=self._propagation,
            )
        confidence = self._confidence(valid)
        if self._threshold is not None:
            return self._policy(self._threshold, confidence, self._batch_policy)
        assert self._speedup is not None
        threshold = self._matching_threshold(valid, layers / self._speedup, confidence)
        return self._policy(threshold, confidence, self._batch_policy)

    def _confidence(self, valid: Sequence[Batch]) -> Confidence:
        for probe in self.probes:
            assert isinstance(probe, ExitClassifier)
            if not probe.fitted:
                raise ValueError("calm's classifier has not been trained: train this module's probes first")
            return probe.confidence
        if self._vocabulary is not None:
            return reduced_softmax_confidence(self.backbone, valid, self._vocabulary)
        return state_saturation if self._measure == "state" else softmax_confidence

    def _step_threshold(self, value: float) -> Threshold:
        return Threshold(value=value, temperature=self._temperature, longest=max(self.lengths), formula=self._decay)

    def _policy(self, value: float, confidence: Confidence, batch_policy: BatchPolicy) -> ExitPolicy:
        layers, threshold = self.backbone.num_layers, self._step_threshold(value)
        if self._propagation == "exact":
            return ExactExit(layers, threshold, confidence, self._exit_layers)
        return ConfidenceExit(
            layers,
            threshold,
            confidence,
            exit_layers=self._exit_layers,
            batch_policy=batch_policy,
            propagation=self._propagation,
        )

    def _matching_threshold(self, valid: Sequence[Batch], depth: float, confidence: Confidence) -> float:
        """The threshold under which decoding `valid`, rows on their own, runs about `depth` layers per token.

        Teacher-forced first exits ignore that exits change the states of later tokens, so the depth
        asked of them is corrected by the depth that decoding had, until that is within 1%; the round that came
        nearest counts.
        """
        measured = [exit_confidences(self.backbone, batch, confidence, self._exit_layers) for batch in valid]
        confidences, steps = zip(*measured, strict=True)
        confidence_EN, step_N = torch.cat(confidences, dim=1), torch.cat(steps)
        asked, tried = depth, []
        for _ in range(_ROUNDS):
            threshold = self._first_exit_threshold(confidence_EN, step_N, asked)
            found = decoded_depth(self.backbone, self._policy(threshold, confidence, "freeze"), valid)
            tried.append((abs(found / depth - 1), threshold))
            if tried[-1][0] <= _NEAR:
                break
            asked = min(max(asked * depth / found, 1.0), float(self.backbone.num_layers))
        return min(tried)[1]

    def _first_exit_threshold(self, confidence_EN: Tensor, step_N: Tensor, depth: float) -> float:
        """The threshold whose mean first exit is `depth` layers, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            by_step = [self._step_threshold(middle).at(step) for step in range(int(step_N.max()) + 1)]
            threshold_N = torch.tensor(by_step, device=step_N.device)[step_N]
            first = mean_first_exit(confidence_EN, threshold_N, self._exit_layers, self.backbone.num_layers)
            low, high = (middle, high) if first < depth else (low, middle)
        return (low + high) / 2
