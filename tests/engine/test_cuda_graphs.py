"""Recorded steps give the tokens of the eager loop for every batch."""

import pytest
import torch

from skiplab.engine import cuda_graphs as module
from skiplab.engine.backbone import Backbone
from skiplab.engine.cuda_graphs import StepGraphs
from skiplab.engine.decode import decode
from skiplab.engine.policy import ExitPolicy, FullDepth, Scheduled
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import EOS, LAYOUTS, PAD, CoordinateExit, prompts, tiny_backbone

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
CPU_AND_GPU = ["cpu", pytest.param("cuda", marks=needs_gpu)]
POLICIES: dict[str, ExitPolicy] = {
    "full": FullDepth(6),
    "skip": Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=3, horizon=6), "skip"),
    "terminate": Scheduled(ExitSchedule(num_layers=6, max_exit=4, min_exit=2, horizon=8), "terminate"),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CPU_AND_GPU)
def backbone(request: pytest.FixtureRequest, layout: str) -> Backbone:
    return tiny_backbone(layout).to(request.param)


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKET", 4)


def recorded(backbone: Backbone, policy: ExitPolicy, rows: int = 4) -> StepGraphs:
    return StepGraphs(backbone, policy, rows=rows, prompt_columns=12, new_tokens=18)


def check(graphs: StepGraphs, batch: list[list[int]], limits: list[int], eos_id: int | None) -> None:
    """Compare tokens, lengths, depths, and the logits of rows that have not ended, with those of the eager loop."""
    logits: dict[tuple[int, int], torch.Tensor] = {}

    def keep(step: int, index_B: torch.Tensor, logits_BV: torch.Tensor) -> None:
        logits.update({(row, step): one.clone() for row, one in zip(index_B.tolist(), logits_BV, strict=True)})

    expected = decode(
        graphs.backbone, graphs.policy, batch, max_new_tokens=limits, eos_id=eos_id, pad_id=PAD, on_step=keep
    )
    own, logits = logits, {}
    actual = decode(
        graphs.backbone, graphs.policy, batch, max_new_tokens=limits, eos_id=eos_id, pad_id=PAD, on_step=keep,
        graphs=graphs,
    )  # fmt: skip
    assert torch.equal(actual.tokens_BT, expected.tokens_BT)
    assert torch.equal(actual.length_B, expected.length_B)
    assert torch.equal(actual.depth_BT, expected.depth_BT)
    for key, one in own.items():
        torch.testing.assert_close(logits[key], one, atol=1e-4, rtol=1e-4)


# On a GPU, a single row uses its own kernels.
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_one_recording_serves_batches_of_all_lengths(backbone: Backbone, policy: ExitPolicy, rows: int) -> None:
    graphs = recorded(backbone, policy, rows)
    for seed, limits in enumerate(([14] * 4, [18, 3, 9, 1], [2] * 4, [14] * 4)):
        check(graphs, prompts(rows, seed=seed), limits[:rows], EOS if seed % 2 else None)
    # Without padding.
    check(graphs, [[5, 6, 7], [9, 8, 7], [3, 4, 5], [11, 12, 13]][:rows], [16] * rows, None)


@needs_gpu
@pytest.mark.parametrize("rows", [1, 4])
def test_recorded_steps_also_run_without_kernels(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("skiplab.engine.kv_cache.has_kernels", "skiplab.engine.fused_layers.has_kernels"):
        monkeypatch.setattr(name, lambda device: False)
    backbone = tiny_backbone().to("cuda")
    check(recorded(backbone, POLICIES["skip"], rows), prompts(rows), [14] * rows, EOS)


def test_there_is_one_recording_per_plan_and_bucket(backbone: Backbone) -> None:
    policy = POLICIES["skip"]
    graphs = recorded(backbone, policy)
    decode(backbone, policy, [[5, 6]] * 4, max_new_tokens=10, eos_id=None, pad_id=PAD, graphs=graphs)
    expected = {(policy.plan(step), -(-(2 + step) // 4) * 4) for step in range(1, 10)}
    assert graphs._recorded.keys() == expected


def test_the_cache_of_a_layer_covers_its_plans_in_whole_buckets(backbone: Backbone) -> None:
    schedule = ExitSchedule(num_layers=6, max_exit=4, min_exit=2, horizon=8)
    graphs = recorded(backbone, Scheduled(schedule, "terminate"))
    full = recorded(backbone, FullDepth(6))
    # 12 prompt columns and 17 more in 6 layers; under the schedule, the fifth and sixth layers run in no step.
    assert full.cache.nbytes == 6 * 2 * 4 * 32 * backbone.kv_heads * backbone.head_size * 4
    assert graphs.cache.nbytes < 4 / 6 * full.cache.nbytes


@pytest.mark.parametrize("limits", [[19] * 4, [4] * 3], ids=["more tokens", "fewer rows"])
def test_a_batch_that_does_not_fit_is_decoded_without_graphs_and_warns(backbone: Backbone, limits: list[int]) -> None:
    policy = FullDepth(6)
    graphs, batch = recorded(backbone, policy), prompts(len(limits))
    expected = decode(backbone, policy, batch, max_new_tokens=limits, eos_id=EOS, pad_id=PAD)
    with pytest.warns(UserWarning, match="recorded steps are for 4 rows, at most 12 prompt columns and 18 new tokens"):
        actual = decode(backbone, policy, batch, max_new_tokens=limits, eos_id=EOS, pad_id=PAD, graphs=graphs)
    assert torch.equal(actual.tokens_BT, expected.tokens_BT)
    assert not graphs._recorded


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("replace", [False, True], ids=["moved", "replaced"])
def test_steps_are_recorded_again_if_weights_have_moved(backbone: Backbone, replace: bool, rows: int) -> None:
    graphs = recorded(backbone, FullDepth(6), rows)
    check(graphs, prompts(rows), [9] * rows, None)
    stale = dict(graphs._recorded)
    if replace:
        others = {name: weight + 0.01 for name, weight in backbone.state_dict().items()}
        backbone.load_state_dict(others, assign=True)
    else:
        for parameter in backbone.parameters():
            parameter.data = parameter.data.clone() + 0.01
    check(graphs, prompts(rows), [9] * rows, None)
    assert all(graphs._recorded[key] is not stale[key] for key in stale)


def test_a_batch_ends_soon_after_its_last_row_has_ended(backbone: Backbone) -> None:
    policy, seen = FullDepth(6), []
    graphs = recorded(backbone, policy)
    decode(
        backbone, policy, prompts(4), max_new_tokens=[2, 1, 3, 18], eos_id=None, pad_id=PAD, graphs=graphs,
        on_step=lambda step, *rest: seen.append(step),
    )  # fmt: skip
    assert seen == list(range(18))
    seen.clear()
    free = decode(backbone, policy, [[5, 6]] * 4, max_new_tokens=18, eos_id=None, pad_id=PAD).sequences()[0]
    ends = free.index(free[1]) + 1
    decode(
        backbone, policy, [[5, 6]] * 4, max_new_tokens=18, eos_id=free[1], pad_id=PAD, graphs=graphs,
        on_step=lambda step, *rest: seen.append(step),
    )  # fmt: skip
    assert seen == (list(range(9)) if ends > 1 else [0])


def test_other_weights_or_policies_are_refused(backbone: Backbone) -> None:
    graphs = recorded(backbone, FullDepth(6))
    with pytest.raises(ValueError, match="recorded for another backbone or policy"):
        decode(backbone, FullDepth(6), prompts(4), max_new_tokens=3, eos_id=EOS, pad_id=PAD, graphs=graphs)
    with pytest.raises(ValueError, match="gives all rows the same plan"):
        recorded(backbone, CoordinateExit(0.0))


def test_a_row_that_ended_does_not_run_out_of_positions(backbone: Backbone) -> None:
    graphs = StepGraphs(backbone, FullDepth(6), rows=3, prompt_columns=64, new_tokens=40)
    batch = [list(range(3, 43)) + list(range(3, 27)), list(range(3, 43)) + list(range(3, 25)), [5, 6]]
    assert backbone.max_positions == len(batch[0]) == 64
    check(graphs, batch, [1, 3, 40], None)
