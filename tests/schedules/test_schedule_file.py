"""Schedule files, and SkipDecode with a schedule file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from skiplab.engine.policy import Scheduled
from skiplab.methods.base import Optimization, Setup
from skiplab.methods.distillation import planned_loss
from skiplab.methods.skipdecode import SkipDecode
from skiplab.schedules.exit_schedule import ExitSchedule
from skiplab.schedules.nested_plan import NestedPlan
from skiplab.schedules.schedule_file import NamedPlan, named_plan
from tests.evaluation.test_teacher_forced import batches
from tests.tiny import tiny_backbone

PLAN = NestedPlan((9, 9, 1, 1, 4, 9))
FOUND = NamedPlan(name="searched 2x #7", plan=PLAN, layer_speedup=1.7, origin={"trial": 7, "params": {"warmup": 2}})


def setup() -> Setup:
    return Setup(tiny_backbone(), [6, 9, 12], Optimization(learning_rate=1e-3))


def test_a_file_contains_the_plan(tmp_path: Path) -> None:
    FOUND.write(tmp_path / "schedule.yaml")
    read = named_plan(f"{tmp_path}/schedule.yaml", 6)
    assert (read.name, read.layer_speedup, read.origin) == (FOUND.name, 1.7, FOUND.origin)
    assert [read.plan.plan(step) for step in range(20)] == [PLAN.plan(step) for step in range(20)]
    assert (tmp_path / "schedule.yaml").read_text().startswith("# Exit schedule: method=skipdecode method.schedule=")
    assert named_plan(FOUND.plain(origin=False), 6).origin == {}


def test_skipdecode_runs_the_plan_of_the_file(tmp_path: Path) -> None:
    FOUND.write(tmp_path / "schedule.yaml")
    by_file = SkipDecode(setup(), schedule=f"{tmp_path}/schedule.yaml", warmup=1, decay="linear", horizon=None)
    by_value = SkipDecode(setup(), schedule=FOUND.plain(), speedup=2)
    assert by_file.setting == by_value.setting == "searched 2x #7"
    assert (by_file.target_speedup, by_value.target_speedup) == (1.7, 2)
    assert by_file.recipe == by_value.recipe, "one training for one plan"
    assert [by_file.policy.plan(step) for step in range(20)] == [PLAN.plan(step) for step in range(20)]


@torch.inference_mode()
def test_an_exported_schedule_decodes_the_same() -> None:
    schedule = ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=7, warmup=2, decay="cosine")
    plan = NestedPlan.of(schedule.plan, 6, 20)
    module = SkipDecode(setup(), schedule=NamedPlan(name="x", plan=plan).plain())
    for batch in batches():
        assert module.loss(batch) == planned_loss(module.backbone, Scheduled(schedule, "skip"), batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "nowhere.yaml"}, "schedule=nowhere.yaml cannot be read"),
        ({"schedule": {"name": "x", "plans": []}}, "num_layers is missing"),
        ({"schedule": {**FOUND.plain(), "num_layers": 12}}, "is for 12 layers, the backbone has 6"),
        ({"schedule": {**FOUND.plain(), "plans": [3]}}, "must be a list of mappings with from_step"),
        ({"schedule": {**FOUND.plain(), "plans": [{"from_step": 1, "layers": [6]}]}}, "from step 1 on a plan must run"),
        ({"schedule": FOUND.plain(), "decay": "cosine", "warmup": 2}, "leave decay, warmup at the default"),
    ],
)  # fmt: skip
def test_bad_schedules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SkipDecode(setup(), **options)
    with pytest.raises(TypeError, match="'sped'"):
        SkipDecode(setup(), schedule=FOUND.plain(), sped=2)


def test_files_without_a_schedule_are_refused(tmp_path: Path) -> None:
    for text, message in (("- a", "expected a mapping, got list"), ("a: [", "is not valid YAML")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            named_plan(f"{tmp_path}/bad.yaml", 6)
