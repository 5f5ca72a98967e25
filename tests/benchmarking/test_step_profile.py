"""The profile of a decode step by kind of module."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from skiplab.benchmarking.step_profile import kind_of, module_ranges, step_profile
from skiplab.benchmarking.timing import Workload, engine_system
from skiplab.engine import packed_linear
from skiplab.engine.backbone import Backbone
from skiplab.engine.fused_layers import LayerNorm, RowLinear
from skiplab.engine.packed_linear import prepack, quantize
from skiplab.engine.policy import FullDepth
from tests.tiny import LAYOUTS, PAD, prompts, tiny_backbone

WORKLOAD = Workload(prompts(2), [9, 9], 2, PAD)
KINDS = {"linear layers", "attention", "norms", "other modules", "step loop", "host"}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


def kinds(backbone: Backbone) -> dict[str, int]:
    """Number of modules of each kind in a backbone, without containers."""
    found: dict[str, int] = {}
    for module in backbone.modules():
        found[kind_of(module)] = found.get(kind_of(module), 0) + 1
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_path_has_modules_of_the_same_kinds(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_SMALL_BYTES", 0)
    backbone = tiny_backbone(layout)
    found = kinds(backbone)
    assert found["attention"] == 6
    assert found["norms"] >= 12
    assert found["linear layers"] >= 6 * 6 + 1
    for fast in (prepack(backbone, rows=4), quantize(backbone, rows=4)):
        assert kinds(fast) == found
    assert kind_of(RowLinear(nn.Linear(2, 2))) == "linear layers"
    assert kind_of(LayerNorm(nn.LayerNorm(2))) == "norms"


def test_profiler_ranges_exist_only_inside_the_context() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.LayerNorm(3))

    def ranges() -> list[str]:
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            model(torch.ones(1, 3))
        return [event.name for event in profiler.events() or [] if event.is_user_annotation]

    assert ranges() == []
    with module_ranges():
        assert ranges() == ["other modules", "linear layers", "other modules", "norms"]
    assert ranges() == []


def test_a_failing_module_leaves_no_range_open() -> None:
    with module_ranges(), pytest.raises(RuntimeError), profile(activities=[ProfilerActivity.CPU]):
        nn.Linear(3, 3)(torch.ones(1, 4))
    with module_ranges(), profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        nn.Linear(3, 3)(torch.ones(1, 3))
    assert [event.name for event in profiler.events() or [] if event.is_user_annotation] == ["linear layers"]


def test_parts_add_up_to_the_step() -> None:
    parts = step_profile(engine_system(tiny_backbone(), FullDepth(6)), WORKLOAD, torch.device("cpu"))
    assert parts.keys() == KINDS
    assert min(value for kind, value in parts.items() if kind != "host") > 0
    assert 0.05 < sum(parts.values()) < 1e3


def test_recorded_steps_are_profiled_by_their_unrecorded_twin() -> None:
    backbone, policy = tiny_backbone(), FullDepth(6)
    silent = engine_system(backbone, policy)
    seen: list[int] = []

    def unrecorded(*arguments: object) -> object:
        seen.append(1)
        return silent(*arguments)  # type: ignore[arg-type]

    parts = step_profile(silent, WORKLOAD, torch.device("cpu"), unrecorded=unrecorded)  # type: ignore[arg-type]
    assert parts.keys() == KINDS
    assert len(seen) == 2


@needs_gpu
def test_a_gpus_kernels_are_traced_back_to_modules() -> None:
    device = torch.device("cuda")
    backbone, policy = tiny_backbone().to(device), FullDepth(6)
    recorded = engine_system(backbone, policy, WORKLOAD)
    unrecorded = engine_system(backbone, policy, WORKLOAD, record=False)
    for system, twin in ((engine_system(backbone, policy), None), (recorded, unrecorded)):
        parts = step_profile(system, WORKLOAD, device, unrecorded=twin)
        assert {"linear layers", "attention", "norms", "step loop", "host"} <= parts.keys()
        assert min(parts[kind] for kind in ("linear layers", "attention", "norms", "step loop")) > 0
