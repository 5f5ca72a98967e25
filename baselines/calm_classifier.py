"""CALM's learned confidence: a linear classifier on the state of any layer (arXiv 2207.07061, section 3.5).

One classifier for all exit layers, trained after the model, which stays frozen. A token is a positive example at
a layer that predicts the same token as the top layer.

Shapes: E exit layers, N tokens, D hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, final, get_args
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.confidence import Confidence, ConfidenceMeasure, confidence_measure, generated_states
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import Batch
from skiplab.engine.policy import Head
from skiplab.engine.token_choice import greedy
from skiplab.methods.base import Setup, TrainedModule

ClassifierLoss = Literal["independent", "geometric"]


def independent_loss(logit_EN: Tensor, agrees_EN: Tensor) -> Tensor:
    """Mean over exit layers of their binary cross entropies, with the two classes of each layer rebalanced.

    The mean is appendix D's; the weights are the released code's: a positive weighs the layer's share of
    negatives, a negative its share of positives.
    """
    label_EN = agrees_EN.to(logit_EN.dtype)
    positive_E1 = label_EN.mean(1, keepdim=True)
    weight_EN = torch.where(agrees_EN, 1 - positive_E1, positive_E1)
    return F.binary_cross_entropy_with_logits(logit_EN, label_EN, weight_EN)


def geometric_loss(logit_EN: Tensor, agrees_EN: Tensor) -> Tensor:
    """Negative log-probability that the first exit, drawn layer by layer, is the first layer that agrees with the top.

    Appendix D, after Elbayad et al., arXiv 1910.10073, section 3.2. Tokens that agree nowhere below the
    top layer should pass all exits. Layers above the first agreement give no signal.
    """
    passes_EN = F.logsigmoid(-logit_EN)
    before_EN = passes_EN.cumsum(0) - passes_EN
    first_EN = agrees_EN & (agrees_EN.cumsum(0) == 1)
    exit_N = ((before_EN + F.logsigmoid(logit_EN)) * first_EN).sum(0)
    return -torch.where(agrees_EN.any(0), exit_N, passes_EN.sum(0)).mean()


_LOSSES = MappingProxyType({"independent": independent_loss, "geometric": geometric_loss})


@final
class ExitClassifier(TrainedModule):
    """A linear layer from a state to the logit of its confidence.

    Args:
        exit_layers: layers whose states it learns from.
        kind: `independent` or `geometric` loss.
        drawn: how many of these layers take part at a training step, drawn anew for each, since the head's products
            at every layer are most of the cost. None takes all, as the geometric loss always does.
    """

    fitted: Tensor

    def __init__(
        self, setup: Setup, exit_layers: Sequence[int], kind: ClassifierLoss, drawn: int | None = None
    ) -> None:
        super().__init__(setup.optimization, prefix="classifier_")
        self._kind: ClassifierLoss = kind
        self._exit_layers = exit_layers
        # The geometric loss is a product over successive layers.
        self._drawn = drawn if kind == "independent" and drawn is not None and drawn < len(exit_layers) else None
        self._frozen_in = {} if setup.decode_dtype is None else {"frozen_dtype": setup.decode_dtype}
        # A weak reference: a policy that keeps the classifier must not keep the model alive.
        self._backbone = ref(setup.backbone)
        self.linear = nn.Linear(setup.backbone.hidden_size, 1)
        # Independent of the RNG state.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("fitted", torch.tensor(False))

    def shared_recipe(self) -> Mapping[str, Any]:
        """One classifier serves every threshold."""
        return {
            "loss": "exit_classifier",
            "kind": self._kind,
            "exit_layers": list(self._exit_layers),
            **({} if self._drawn is None else {"drawn_exits": self._drawn}),
            **self._frozen_in,
        }

    @property
    def backbones(self) -> Sequence[Backbone]:
        backbone = self._backbone()
        assert backbone is not None, "the model was freed before its classifier was trained"
        return [backbone]

    def loss(self, batch: Batch) -> Tensor:
        (backbone,) = self.backbones
        layers = self._exit_layers
        if self._drawn is not None and self.training:
            layers = [layers[place] for place in sorted(torch.randperm(len(layers))[: self._drawn].tolist())]
        with torch.no_grad():
            states = generated_states(backbone, batch)
        if not len(states[-1]):
            # All outputs have one token, and a mean over nothing is not a number.
            return 0 * self.linear(states[-1].float()).sum()
        with torch.no_grad():
            top_N = greedy(backbone.head(states[-1]))
            state_END = torch.stack([states[layer + 1] for layer in layers])
            # One layer's logits at a time.
            agrees_EN = torch.stack([greedy(backbone.head(h_ND)) == top_N for h_ND in state_END])
        return _LOSSES[self._kind](self.linear(state_END.float())[..., 0], agrees_EN)

    def on_train_end(self) -> None:
        self.fitted.fill_(True)

    def confidence(self, h_ND: Tensor, below_ND: Tensor, head: Head) -> Tensor:
        """Probability that the prediction is the top layer's, shape (N,)."""
        return self.linear(h_ND.float())[..., 0].sigmoid()


@confidence_measure("classifier")
@final
@dataclass(frozen=True, kw_only=True)
class LearnedClassifier(ConfidenceMeasure):
    """Probability that a layer's prediction is the top layer's.

    Args:
        loss: `independent` or `geometric`.
    """

    loss: ClassifierLoss = "independent"

    def __post_init__(self) -> None:
        if self.loss not in _LOSSES:
            raise ValueError(
                f"unknown calm classifier loss {self.loss!r}; choose one of {', '.join(get_args(ClassifierLoss))}"
            )

    def words(self) -> list[str]:
        return ["geometric"] if self.loss == "geometric" else []

    def probes(self, setup: Setup, exit_layers: Sequence[int], drawn: int | None) -> Sequence[TrainedModule]:
        return [ExitClassifier(setup, exit_layers, self.loss, drawn)]

    def confidence(self, backbone: Backbone, valid: Sequence[Batch], probes: Sequence[TrainedModule]) -> Confidence:
        (classifier,) = probes
        assert isinstance(classifier, ExitClassifier)
        if not classifier.fitted:
            raise ValueError("calm's classifier has not been trained: train this module's probes first")
        return classifier.confidence
