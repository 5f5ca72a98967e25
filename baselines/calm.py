"""CALM: Confident Adaptive Language Modeling (arXiv 2207.07061), on a decoder-only model.

CALM decodes with the weights of the multi-layer exit model. A row exits at the first layer whose confidence exceeds the
threshold: softmax response, hidden-state saturation, or a learned classifier (section 3.5). The layers
above compute only keys and values from the state in which it left (section 3.2). In a batch each row
freezes on its own, or leaves the computation, or all rows wait for the least confident one. The threshold is
constant or decays with the generation step (equation 5).

Deviations: a confidence must exceed the threshold, where in the paper it may equal the threshold, so that a constant
threshold of 1 is full depth. A target layer speedup may be given instead of a threshold: the threshold is then
estimated from the first exits in one teacher-forced pass over the validation data, and corrected by decoding that
data. On other data the speedup may differ; it is measured there.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, final

from baselines.calm_policy import ConfidenceExit, ExactExit, Exits, IdealExit
from baselines.calm_setting import CALMSetting, Execution, measure_of, part_of
from baselines.calm_threshold import Decay, Threshold, ThresholdMatch, confidence_quantile
from baselines.confidence import Confidence
from baselines.multi_layer import EveryLayerTrained, check_drawn_exits
from skiplab.engine.batch import Batch
from skiplab.engine.policy import BatchPolicy, ExitPolicy
from skiplab.methods.base import Setup


@final
class CALM(EveryLayerTrained):
    """Adaptive exit by confidence.

    Args:
        threshold: exit threshold in [0, 1]; or
        speedup: a layer speedup to find the threshold for; or
        quantile: the share of confidences on the selection data that do not exceed the threshold; with 1 none does.
        confidence: `softmax` response, `state` saturation or a learned `classifier`, by name or as a mapping of `name`
            and the options of its `ConfidenceMeasure`; or, for analysis, the `ideal` exit at the first layer that
            predicts what the top one does, which takes none of the three.
        decay: of the threshold with the step, as a mapping of the options of `Decay`; None keeps it constant.
        exits: where rows may exit, and which exits are trained, as a mapping of the options of `Exits`; None allows
            exits after every layer, and trains all of them.
        execution: keywords of `Execution`.

    Attributes:
        keywords_of: the dataclass whose fields are the further keywords; a configuration is checked against it.
    """

    keywords_of: ClassVar[type] = Execution

    def __init__(
        self,
        setup: Setup,
        *,
        threshold: float | None = None,
        speedup: float | None = None,
        quantile: float | None = None,
        confidence: str | Mapping[str, Any] = "softmax",
        decay: Mapping[str, Any] | None = None,
        exits: Mapping[str, Any] | None = None,
        **execution: Any,
    ) -> None:
        name, measure = measure_of(confidence)
        parts = CALMSetting(
            threshold=threshold,
            speedup=speedup,
            quantile=quantile,
            confidence=name,
            measure=measure,
            decay=part_of(Decay, "decay", decay),
            exits=part_of(Exits, "exits", exits),
            **vars(Execution(**execution)),
        )
        exit_layers = parts.exit_layers(setup.backbone.num_layers)
        drawn = parts.exits.drawn
        check_drawn_exits(drawn, setup.backbone.num_layers)
        super().__init__(setup, probes=[] if measure is None else measure.probes(setup, exit_layers, drawn))
        self._parts = parts
        self.drawn_exits = drawn
        self._exit_layers = exit_layers

    @property
    def setting(self) -> str:
        return str(self._parts)

    @property
    def target_speedup(self) -> float | None:
        return None

    def exit_policy(self, valid: Sequence[Batch]) -> ExitPolicy:
        """The policy to decode with.

        Raises:
            ValueError: the classifier has not been trained.
        """
        layers, parts = self.backbone.num_layers, self._parts
        if parts.measure is None:
            return IdealExit(layers, self._exit_layers, exact_kv=parts.propagation == "exact")
        confidence = parts.measure.confidence(self.backbone, valid, self.probes)
        value = parts.threshold
        if parts.quantile is not None:
            value = confidence_quantile(self.backbone, confidence, self._exit_layers, valid, parts.quantile)
        if value is None:
            assert parts.speedup is not None
            # Matched with rows that do not affect each other, so that all batch policies have the same threshold.
            alone = partial(self._policy, confidence, "freeze")
            match = ThresholdMatch(self.backbone, confidence, self._exit_layers, self._threshold, alone)
            value = match.value_for(layers / parts.speedup, valid)
        return self._policy(confidence, parts.batch_policy, value)

    def _threshold(self, value: float) -> Threshold:
        return Threshold(value=value, decay=self._parts.decay, longest=max(self.lengths))

    def _policy(self, confidence: Confidence, batch_policy: BatchPolicy, value: float) -> ExitPolicy:
        layers, threshold, propagation = self.backbone.num_layers, self._threshold(value), self._parts.propagation
        if propagation == "exact":
            return ExactExit(layers, threshold, confidence, self._exit_layers)
        return ConfidenceExit(
            layers,
            threshold,
            confidence,
            exit_layers=self._exit_layers,
            batch_policy=batch_policy,
            propagation=propagation,
        )
