"""CALM's learned confidence: its losses by hand (appendix D), and what its training does not change."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines.calm import CALM
from baselines.calm_classifier import ClassifierLoss, ExitClassifier, geometric_loss, independent_loss
from baselines.confidence import exit_confidences
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch
from skiplab.engine.parallel_forward import layer_states
from skiplab.methods.base import Optimization, Setup
from tests.test_conformance import some_batch, train_probes
from tests.tiny import tiny_backbone

# Two exits, three tokens.
LOGITS = [[0.3, -1.2, 2.0], [-0.4, 0.7, 1.1]]
AGREES = [[True, False, False], [True, True, False]]


def p(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def new_setup(backbone: Backbone) -> Setup:
    return Setup(backbone, [12, 14], Optimization(learning_rate=1e-3))


def new_classifier(backbone: Backbone, kind: ClassifierLoss = "independent") -> ExitClassifier:
    torch.manual_seed(0)
    return ExitClassifier(new_setup(backbone), range(1, 5), kind)


def test_independent_loss_rebalances_each_exit() -> None:
    # One of three agrees at the first exit: it weighs 2/3, the others 1/3 each. At the second two agree.
    first = 2 / 3 * math.log(p(0.3)) + 1 / 3 * math.log(1 - p(-1.2)) + 1 / 3 * math.log(1 - p(2.0))
    second = 1 / 3 * math.log(p(-0.4)) + 1 / 3 * math.log(p(0.7)) + 2 / 3 * math.log(1 - p(1.1))
    found = independent_loss(torch.tensor(LOGITS), torch.tensor(AGREES))
    assert float(found) == pytest.approx(-(first + second) / 6)


def test_an_exits_positives_weigh_as_much_as_its_negatives() -> None:
    logit_EN = torch.zeros(2, 8, requires_grad=True)
    agrees_EN = torch.arange(8) < torch.tensor([[1], [6]])
    independent_loss(logit_EN, agrees_EN).backward()
    assert logit_EN.grad is not None
    for gradient_N, agrees_N in zip(logit_EN.grad, agrees_EN, strict=True):
        assert float(gradient_N[agrees_N].sum()) == pytest.approx(-float(gradient_N[~agrees_N].sum()))
        assert float(gradient_N[agrees_N].sum()) < 0


def test_geometric_loss_is_the_probability_of_the_first_agreement() -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0], [-0.4, 0.7, 1.1], [0.9, -0.5, 0.2]])
    agrees = torch.tensor([[False, True, False], [True, False, False], [True, True, False]])
    # The tokens first agree at the second exit, at the first and at none.
    exits = [
        math.log(1 - p(0.3)) + math.log(p(-0.4)),
        math.log(p(-1.2)),
        math.log(1 - p(2.0)) + math.log(1 - p(1.1)) + math.log(1 - p(0.2)),
    ]
    assert float(geometric_loss(logits, agrees)) == pytest.approx(-sum(exits) / 3)


def test_geometric_loss_ignores_exits_above_the_first_agreement() -> None:
    logit_EN = torch.zeros(4, 2, requires_grad=True)
    agrees_EN = torch.tensor([[False, False], [True, False], [False, False], [True, False]])
    geometric_loss(logit_EN, agrees_EN).backward()
    assert logit_EN.grad is not None
    # The probability is p = 1/2 everywhere: the gradient of -log p is -1/2, of -log(1 - p) 1/2, over two tokens.
    assert logit_EN.grad.T.tolist() == [[0.25, -0.25, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]


def test_losses_stay_finite_for_extreme_logits() -> None:
    logit_EN = torch.tensor([[90.0, -90.0], [-90.0, 90.0]])
    agrees_EN = torch.tensor([[False, True], [True, False]])
    assert float(geometric_loss(logit_EN, agrees_EN)) == pytest.approx(180 / 2 + 90 / 2)
    assert float(independent_loss(logit_EN, agrees_EN)) == pytest.approx(90 / 2)


def loss_by_hand(backbone: Backbone, batch: Batch, classifier: ExitClassifier) -> tuple[Tensor, Tensor]:
    """Logits and labels (E, N) from each row's own pass without padding."""
    logits, labels = [], []
    for ids, mask, target in zip(batch.input_BT, batch.prompt_mask_BP, batch.target_BG, strict=True):
        length = int((target != IGNORE).sum())
        kept = torch.cat([mask.nonzero()[:, 0], batch.prompt_columns + torch.arange(length - 1)])
        states = list(layer_states(backbone, ids[kept][None], torch.ones(1, int(mask.sum()), dtype=torch.bool)))
        generated = [h[0, int(mask.sum()) :] for h in states]
        predicted = [backbone.head(h).argmax(-1) for h in generated]
        logits.append(torch.stack([classifier.linear(generated[layer])[:, 0] for layer in range(1, 5)]))
        labels.append(torch.stack([predicted[layer] == predicted[5] for layer in range(1, 5)]))
    return torch.cat(logits, dim=1), torch.cat(labels, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["independent", "geometric"])
def test_it_learns_which_predictions_agree_with_the_top_layer(backbone: Backbone, kind: Any) -> None:
    classifier, batch = new_classifier(backbone, kind), some_batch()
    logit_EN, agrees_EN = loss_by_hand(backbone, batch, classifier)
    assert 0.05 < float(agrees_EN.float().mean()) < 0.95
    expected = {"independent": independent_loss, "geometric": geometric_loss}[kind](logit_EN, agrees_EN)
    torch.testing.assert_close(classifier.loss(batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["independent", "geometric"])
def test_outputs_of_one_token_teach_nothing(backbone: Backbone, kind: Any) -> None:
    batch = some_batch()
    ended = batch.target_BG.clone()
    ended[:, 1:] = IGNORE
    classifier = new_classifier(backbone, kind)
    loss = classifier.loss(batch._replace(target_BG=ended))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in classifier.parameters())


@torch.no_grad()
def test_the_loss_of_drawn_exits_is_that_of_all_in_the_mean(backbone: Backbone) -> None:
    batch, whole = some_batch(), new_classifier(backbone)
    some = ExitClassifier(new_setup(backbone), range(1, 5), "independent", drawn=2)
    some.linear.load_state_dict(whole.linear.state_dict())
    nn.init.normal_(some.linear.weight, std=0.5)
    whole.linear.load_state_dict(some.linear.state_dict())
    losses = [float(some.loss(batch)) for _ in range(200)]
    assert len({round(loss, 6) for loss in losses}) == math.comb(4, 2)
    assert sum(losses) / len(losses) == pytest.approx(float(whole.loss(batch)), rel=0.05)
    assert float(some.eval().loss(batch)) == pytest.approx(float(whole.loss(batch)))


def test_calms_drawn_exits_are_the_classifiers_too(backbone: Backbone) -> None:
    def recipe(**options: Any) -> Any:
        (probe,) = CALM(new_setup(backbone), threshold=0.5, **options).probes
        return probe.recipe

    classifier = {"name": "classifier"}
    assert recipe(confidence=classifier, exits={"drawn": 2})["drawn_exits"] == 2
    assert "drawn_exits" not in recipe(confidence=classifier)
    # It goes through the layers in order.
    assert "drawn_exits" not in recipe(confidence={"name": "classifier", "loss": "geometric"}, exits={"drawn": 2})


@pytest.mark.parametrize("kind", ["independent", "geometric"])
def test_training_lowers_the_loss_and_leaves_the_backbone(kind: Any) -> None:
    backbone = tiny_backbone()
    module = CALM(new_setup(backbone), threshold=0.5, confidence={"name": "classifier", "loss": kind})
    (probe,) = module.probes
    assert isinstance(probe, ExitClassifier)
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in probe.linear.state_dict().items()}
    losses = [float(probe.loss(some_batch(seed)).detach()) for seed in range(5)]
    train_probes(module, steps=100)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(not torch.equal(tensor, before[name]) for name, tensor in probe.linear.state_dict().items())
    after = [float(probe.loss(some_batch(seed)).detach()) for seed in range(5)]
    assert sum(after) < 0.97 * sum(losses)


def test_a_probe_contains_only_a_linear_layer(backbone: Backbone) -> None:
    probe = new_classifier(backbone)
    assert {name: tuple(tensor.shape) for name, tensor in probe.state_dict().items()} == {
        "linear.weight": (1, 24),
        "linear.bias": (1,),
        "fitted": (),
    }
    module = CALM(new_setup(backbone), threshold=0.5, confidence="classifier")
    assert len(module.probes) == 1
    assert {id(parameter) for parameter in module.parameters()} == {
        id(parameter) for parameter in backbone.parameters()
    }
    assert not CALM(new_setup(backbone), threshold=0.5, confidence="state").probes


def test_an_untrained_classifier_refuses_to_give_a_confidence() -> None:
    module = CALM(new_setup(tiny_backbone()), threshold=0.5, confidence="classifier")
    with pytest.raises(ValueError, match="calm's classifier has not been trained: train this module's probes first"):
        module.exit_policy([some_batch()])
    (probe,) = module.probes
    probe.on_train_end()
    module.exit_policy([some_batch()])
    again = CALM(new_setup(tiny_backbone()), threshold=0.5, confidence="classifier")
    again.probes[0].load_state_dict(probe.state_dict())
    again.exit_policy([some_batch()])


@torch.no_grad()
def test_its_confidence_is_its_probability(backbone: Backbone) -> None:
    classifier, batch = new_classifier(backbone), some_batch()
    classifier.linear.weight.copy_(torch.arange(24.0)[None] / 24)
    classifier.linear.bias.fill_(-2)
    h_ND = torch.randn(3, 24)
    expected = [p(sum(index / 24 * value for index, value in enumerate(h)) - 2) for h in h_ND.tolist()]
    assert classifier.confidence(h_ND, h_ND, backbone.head).tolist() == pytest.approx(expected, abs=1e-5)
    logit_EN, _ = loss_by_hand(backbone, batch, classifier)
    confidence_EN, _ = exit_confidences(backbone, batch, classifier.confidence, range(1, 5))
    torch.testing.assert_close(confidence_EN, logit_EN.sigmoid(), atol=1e-5, rtol=1e-5)


def test_different_classifiers_have_different_recipes(backbone: Backbone) -> None:
    recipes = [
        ExitClassifier(new_setup(backbone), exit_layers, kind).recipe
        for exit_layers in (range(5), range(1, 5))
        for kind in ("independent", "geometric")
    ]
    assert recipes[0] == {"loss": "exit_classifier", "kind": "independent", "exit_layers": [0, 1, 2, 3, 4]}
    assert all(recipes.count(recipe) == 1 for recipe in recipes)
