"""The recorded cost of a training, which does not depend on interruptions."""

from dataclasses import replace
from pathlib import Path

import pytest

from baselines.calm_classifier import ExitClassifier
from skiplab.methods.base import Setup
from skiplab.methods.full import Full
from skiplab.methods.skipdecode import SkipDecode
from skiplab.schedules.exit_schedule import layer_steps
from skiplab.training.trainer import train
from skiplab.training.training_cost import TrainingCost
from skiplab.training.upkeep import Upkeep
from tests.training.test_trainer import SHAPE, SPEC, new_data, new_module


def cost_of(tmp_path: Path, module, spec=SPEC) -> TrainingCost:
    train(module, new_data(), spec, seed=0, folder=tmp_path, logger=None)
    found = TrainingCost.stored(tmp_path)
    assert found is not None
    return found


def real_tokens() -> int:
    return sum(prompt + target for prompt, target in new_data().train_pairs.lengths)


@pytest.mark.parametrize("passes", [1, 2])
def test_tokens_are_those_of_prompts_and_targets(tmp_path: Path, passes: int) -> None:
    found = cost_of(tmp_path, new_module(new_data()), replace(SPEC, max_epochs=passes))
    assert (found.passes, found.tokens) == (passes, passes * real_tokens())
    assert found.cpu_s is not None
    assert found.cpu_s > 0
    assert found.gpu_s is None


def test_all_layers_run_on_all_positions_at_full_depth(tmp_path: Path) -> None:
    found = cost_of(tmp_path, new_module(new_data()))
    # The last target token is predicted but not fed; padding is fed.
    least = SHAPE.num_layers * (found.tokens - SPEC.max_epochs * len(new_data().train_pairs))
    assert least <= found.layer_tokens < 1.5 * least


def test_a_schedule_counts_only_the_layers_that_it_runs(tmp_path: Path) -> None:
    data = new_data()
    module = new_module(data, SkipDecode, speedup=2)
    steps_L = layer_steps(module.policy.plan, SHAPE.num_layers, 64)
    assert min(steps_L) < 64
    full, planned = cost_of(tmp_path / "full", new_module(data, Full)), cost_of(tmp_path / "planned", module)
    assert planned.layer_tokens < full.layer_tokens
    assert planned.tokens == full.tokens


def test_the_teachers_layers_count(tmp_path: Path) -> None:
    data = new_data()
    alone = cost_of(tmp_path / "alone", new_module(data, SkipDecode, speedup=2))
    student, teacher = (new_module(data).backbone for _ in range(2))
    setup = Setup(student, [20, 25, 30], SPEC.optimization, teacher)
    taught = SkipDecode(setup, speedup=2, distill={"logits": 1.0})
    full = cost_of(tmp_path / "full", new_module(data, Full))
    assert cost_of(tmp_path / "taught", taught).layer_tokens == alone.layer_tokens + full.layer_tokens


def test_checkpointed_layers_count_once(tmp_path: Path) -> None:
    data = new_data()
    found = [
        cost_of(tmp_path / str(again), new_module(data), replace(SPEC, gradient_checkpointing=again))
        for again in (False, True)
    ]
    assert found[0].layer_tokens == found[1].layer_tokens


def test_an_interrupted_training_counts_every_step_once(tmp_path: Path) -> None:
    data = new_data()
    whole = cost_of(tmp_path / "whole", new_module(data))
    module, fails_at = new_module(data), 13
    step = module.training_step

    def failing(part, batch_idx):
        if module.global_step == fails_at:
            raise RuntimeError("cut off")
        return step(part, batch_idx)

    module.training_step = failing
    with pytest.raises(RuntimeError, match="cut off"):
        train(module, data, SPEC, seed=0, folder=tmp_path / "cut", logger=None, upkeep=Upkeep(checkpoint_every=0))
    again = cost_of(tmp_path / "cut", new_module(data))
    assert (again.passes, again.tokens, again.layer_tokens) == (whole.passes, whole.tokens, whole.layer_tokens)


def test_a_probe_costs_the_passes_of_the_model_whose_states_it_reads(tmp_path: Path) -> None:
    data = new_data()
    full = new_module(data)
    probe = ExitClassifier(Setup(full.backbone, [20, 25, 30], SPEC.optimization), range(3), "independent")
    model, classifier = cost_of(tmp_path / "model", full), cost_of(tmp_path / "probe", probe)
    assert classifier.layer_tokens == model.layer_tokens
    row = model.row([classifier])
    assert row["train_passes"] == SPEC.max_epochs
    assert row["train_tokens"] == 2 * model.tokens
    assert row["train_cpu_s"] == pytest.approx((model.cpu_s or 0) + (classifier.cpu_s or 0))
    assert row["valid_loss"] == model.valid_loss
