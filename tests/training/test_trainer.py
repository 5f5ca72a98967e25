"""Training: losses, precision, options, interruption and resumption."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.multi_layer import MultiLayerExit
from skiplab.backbones.shapes import OPTSpec
from skiplab.data.module import TextData
from skiplab.data.restaurants import Restaurants
from skiplab.methods.base import Optimization, Setup
from skiplab.methods.full import Full
from skiplab.methods.skipdecode import SkipDecode
from skiplab.training.trainer import NonFiniteLossError, TrainerSpec, train

SPEC = TrainerSpec(max_epochs=2, batch_size=16, learning_rate=3e-3)
SHAPE = OPTSpec(num_layers=4, hidden_size=16, num_heads=2, max_positions=128, init_std=0.1)


def new_data() -> TextData:
    return TextData(Restaurants(train_size=160, valid_size=16, test_size=8), batch_size=16, max_new_tokens=64)


def new_module(data: TextData, kind: Any = Full, spec: TrainerSpec = SPEC, **options):
    torch.manual_seed(0)
    backbone = SHAPE.build(vocab_size=len(data.tokenizer), pad_id=data.pad_id, bos_id=data.bos_id, eos_id=data.eos_id)
    return kind(Setup(backbone, [20, 25, 30], spec.optimization), **options)


@pytest.mark.parametrize(("kind", "options"), [(Full, {}), (SkipDecode, {"speedup": 1.5})])
def test_training_lowers_the_loss(tmp_path: Path, kind, options: dict) -> None:
    data = new_data()
    module = new_module(data, kind, **options)
    batch = data.batches("valid")[0]
    before = float(module.loss(batch).detach())
    spec = replace(SPEC, max_epochs=8, learning_rate=1e-2)
    metrics = train(module, data, spec, seed=0, folder=tmp_path, logger=None)
    assert float(module.loss(batch).detach()) < 0.8 * before
    assert metrics["valid_loss"] < before
    assert not module.training


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    data, found = new_data(), []
    for run in ("a", "b"):
        module = new_module(data)
        train(module, data, SPEC, seed=1, folder=tmp_path / run, logger=None)
        found.append(torch.cat([parameter.flatten() for parameter in module.parameters()]))
    assert torch.equal(*found)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    data, found = new_data(), []
    for seed in (1, 2):
        module = new_module(data)
        train(module, data, SPEC, seed=seed, folder=tmp_path / str(seed), logger=None)
        found.append(torch.cat([parameter.flatten() for parameter in module.parameters()]))
    assert not torch.allclose(*found, atol=1e-3)


def test_mixed_precision_trains(tmp_path: Path) -> None:
    data = new_data()
    metrics = train(new_module(data), data, replace(SPEC, precision="bf16-mixed"), seed=0, folder=tmp_path, logger=None)
    assert metrics["valid_loss"] < 6


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped(tmp_path: Path, precision: str) -> None:
    data, norms = new_data(), []
    module = new_module(data)
    step = torch.optim.AdamW.step

    def watched(optimizer: torch.optim.AdamW, closure: Any) -> Any:
        def closed() -> Any:
            loss = closure()
            gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))
            assert optimizer.param_groups[0]["fused"]
            assert module.backbone.model.config._attn_implementation == (
                "sdpa" if precision == "32-true" else "skiplab_float32"
            )
            return loss

        return step(optimizer, closed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        spec = replace(SPEC, max_epochs=1, precision=precision, gradient_clip=0.01)
        train(module, data, spec, seed=0, folder=tmp_path, logger=None)
    assert norms == pytest.approx([0.01] * 10, rel=1e-3)
    assert module.backbone.model.config._attn_implementation == "sdpa"


def one_epoch(folder: Path, spec: TrainerSpec, kind, **options: Any) -> tuple[float, int]:
    """Train for one epoch; the validation loss, and how often the first layer ran with gradients."""
    data, runs = new_data(), []
    module = new_module(data, kind, **options)
    layers: Any = module.backbone.layers
    layers[0].fc1.register_forward_hook(lambda *call: runs.append(torch.is_grad_enabled()))
    metrics = train(module, data, replace(spec, max_epochs=1), seed=1, folder=folder, logger=None)
    assert not any(layer._compiled_call_impl or layer.gradient_checkpointing for layer in layers)
    return metrics["valid_loss"], sum(runs)


PROJECTED = {"speedup": 1.5, "prompt": {"form": "project", "from_layer": 2}}


@pytest.mark.parametrize(("kind", "options"), [(Full, {}), (MultiLayerExit, {"speedup": 1.5}), (SkipDecode, PROJECTED)])
def test_checkpointed_layers_run_twice_and_learn_the_same(tmp_path: Path, kind, options: dict) -> None:
    loss, runs = one_epoch(tmp_path / "plain", SPEC, kind, **options)
    checkpointed = one_epoch(tmp_path / "other", replace(SPEC, gradient_checkpointing=True), kind, **options)
    assert checkpointed == (pytest.approx(loss, abs=1e-4), 2 * runs)


# torch.compile inspects this attribute, which warns if torch's own filters are off.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("options", [{"speedup": 1.5}, PROJECTED])
def test_compiled_layers_learn_the_same(tmp_path: Path, options: dict) -> None:
    loss, _ = one_epoch(tmp_path / "plain", SPEC, SkipDecode, **options)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, _ = one_epoch(tmp_path / "other", replace(SPEC, compile="eager"), SkipDecode, **options)
    assert compiled == pytest.approx(loss, abs=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_an_unknown_compiler_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown trainer compile 'gcc', and not null; choose from .*inductor"):
        replace(SPEC, compile="gcc")


@pytest.mark.parametrize(("kind", "options"), [(Full, {}), (SkipDecode, {"speedup": 1.5})])
def test_an_interrupted_training_resumes_from_its_checkpoint(tmp_path: Path, kind, options: dict) -> None:
    data = new_data()
    whole = new_module(data, kind, **options)
    train(whole, data, SPEC, seed=1, folder=tmp_path / "whole", logger=None)

    class CutOffError(Exception):
        pass

    module, steps = new_module(data, kind, **options), []

    def loss(batch):
        if torch.is_grad_enabled():
            steps.append(batch)
        if len(steps) == 14:
            raise CutOffError
        return kind.loss(module, batch)

    module.loss = loss  # type: ignore[method-assign]
    with pytest.raises(CutOffError):
        train(module, data, SPEC, seed=1, folder=tmp_path / "cut", logger=None)
    again = new_module(data, kind, **options)
    train(again, data, SPEC, seed=1, folder=tmp_path / "cut", logger=None)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, epochs: int) -> None:
    data = TextData(Restaurants(train_size=80 * epochs, valid_size=16, test_size=8), batch_size=16, max_new_tokens=64)
    spec = TrainerSpec(max_epochs=epochs, batch_size=16, learning_rate=1e12, warmup_fraction=0.0, gradient_clip=1e12)
    with pytest.raises(NonFiniteLossError, match=r"loss is (nan|inf) at step \d+: lower the learning_rate"):
        train(new_module(data, spec=spec), data, spec, seed=0, folder=tmp_path, logger=None)


def test_learning_rate_rises_and_falls() -> None:
    options = Optimization(learning_rate=1.0, warmup_fraction=0.2)
    assert [options.scale(step, 10) for step in (0, 1, 2, 6, 9, 10)] == pytest.approx([0.5, 1, 1, 0.5, 0.125, 0])


def test_bad_options_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="learning_rate must be above 0, got 0"):
        TrainerSpec(max_epochs=1, batch_size=1, learning_rate=0)
    with pytest.raises(ValueError, match="batch_size at least 1, got -1 and 4"):
        TrainerSpec(max_epochs=-1, batch_size=4, learning_rate=1)
    with pytest.raises(ValueError, match="warmup_fraction must lie in"):
        TrainerSpec(max_epochs=1, batch_size=4, learning_rate=1, warmup_fraction=1)
