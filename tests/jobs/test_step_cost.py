"""The cost of a training step."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.jobs.step_cost import step_cost
from skiplab.methods.base import Setup
from tests.comparison.small import small_config


def test_every_setting_is_timed_against_the_full_step(tmp_path: Path) -> None:
    config = small_config(tmp_path, "~methods.calm", "methods.full.sweep.fine_tune=[false]")
    assert step_cost(config, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["full", *["skipdecode"] * 2, *["multi_layer"] * 2]
    assert rows[0]["train_step_ratio"] == 1
    assert all(row["timing_rounds"] == 2 for row in rows)
    assert rows[0]["train_layer_ratio"] == rows[0]["train_flops_ratio"] == 1
    for row in rows[1:3]:
        assert 0.3 < row["train_layer_ratio"] < row["train_flops_ratio"] < 1
    assert all("train_flops_ratio" not in row for row in rows[3:])
    with pytest.raises(ConfigurationError, match=r"results of another configuration .it differs in threads"):
        step_cost(
            small_config(tmp_path, "~methods.calm", "methods.full.sweep.fine_tune=[false]", "threads=2"), tmp_path
        )


def test_steps_are_timed_in_the_trainers_precision(tmp_path: Path) -> None:
    seen = set()
    cross_entropy = torch.nn.functional.cross_entropy

    def watched(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.add(logits.dtype)
        return cross_entropy(logits, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", watched)
        step_cost(small_config(tmp_path, "~methods.calm", "trainer.precision=bf16-mixed"), tmp_path)
    assert seen == {torch.bfloat16}


def test_a_step_at_3x_takes_at_most_three_fifths_of_a_full_steps_arithmetic(tmp_path: Path) -> None:
    task = ("data.train_size=64", "max_new_tokens=64")
    shape = ("backbone.num_layers=12", "backbone.hidden_size=64", "backbone.num_heads=4")
    prepared = prepare(
        small_config(tmp_path, *shape, "speedups=[3]", "limit=64", "methods.full.sweep.fine_tune=[false]", task=task)
    )
    backbone = prepared.new_backbone()
    lengths = [len(target) for _, target in prepared.data.selection_pairs]
    (batch, _) = (part.batch for part in prepared.data.train_dataloader())
    flops = []
    for case in prepared.cases[:2]:
        module = case.candidates[0].build(Setup(backbone, lengths, prepared.trainer.optimization))
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            module.loss(batch).backward()
        flops.append(counter.get_total_flops())
    assert [case.entry.label for case in prepared.cases[:2]] == ["full 1x", "skipdecode 3x"]
    assert flops[1] < 0.6 * flops[0]
