"""Exits that are decided on the device, as recorded layers."""

import random
from typing import Literal

import pytest
import torch

from baselines.calm_policy import ConfidenceExit
from baselines.calm_threshold import Decay, Threshold
from baselines.confidence import state_saturation
from skiplab.engine.backbone import Backbone
from skiplab.engine.continuous import Engine
from skiplab.engine.decode import decode, decode_request
from skiplab.engine.draft_length import Drafting
from skiplab.engine.fast_path import FastPath
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.kept_batches import DraftBatches, ExitBatches
from skiplab.engine.number_format import FORMATS
from skiplab.engine.policy import AdaptivePolicy, Planned, Scheduled
from skiplab.engine.recorded_exits import RecordedExits
from skiplab.engine.request import Decoding, RowRequest
from skiplab.engine.speculative import Speculative
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import EOS, LAYOUTS, PAD, CoordinateExit, prompts, tiny_backbone

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
Kept = Literal["freeze", "min"]


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def backbone(request: pytest.FixtureRequest, layout: str) -> Backbone:
    return tiny_backbone(layout).to(request.param)


def recorded(backbone: Backbone, policy: AdaptivePolicy, rows: int) -> ExitBatches:
    return ExitBatches(backbone, policy, rows=rows, prompt_columns=12, new_tokens=18)


def check(
    batches: ExitBatches | DraftBatches, batch: list[list[int]], limits: list[int], eos_id: int | None
) -> set[int]:
    """Compare tokens and depths with those of the loop without recordings; returns the depths."""
    options = {"max_new_tokens": limits, "eos_id": eos_id, "pad_id": PAD}
    expected = decode(batches.backbone, batches.policy, batch, **options)
    actual = decode(batches.backbone, batches.policy, batch, **options, graphs=batches)
    assert torch.equal(actual.tokens_BT, expected.tokens_BT)
    assert torch.equal(actual.depth_BT, expected.depth_BT)
    return set(actual.depth_BT.flatten().tolist())


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("batch_policy", ["freeze", "min"])
def test_one_recording_serves_batches_of_all_lengths(backbone: Backbone, batch_policy: Kept, rows: int) -> None:
    depths = set()
    for bound in (0.5, 1.5, 3.0):
        batches = recorded(backbone, CoordinateExit(bound, batch_policy=batch_policy), rows)
        for seed, limits in enumerate(([14] * 4, [18, 3, 9, 1], [2] * 4)):
            depths |= check(batches, prompts(rows, seed=seed), limits[:rows], EOS if seed % 2 else None)
    assert len(depths) > 3


def test_rows_may_exit_below_a_schedules_depth(backbone: Backbone) -> None:
    planned = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8), "skip")
    check(recorded(backbone, CoordinateExit(1.0, planned=planned), 4), prompts(4), [14] * 4, None)


def test_a_threshold_that_decays_is_computed_on_the_device(backbone: Backbone) -> None:
    depths = set()
    for value in (0.2, 0.5, 0.9):
        threshold = Threshold(value=value, decay=Decay(temperature=4.0), longest=10)
        policy = ConfidenceExit(6, threshold, state_saturation)
        depths |= check(recorded(backbone, policy, 3), prompts(3), [12] * 3, None)
    assert len(depths) > 1


def test_rows_that_arrive_over_time_decode_as_alone(backbone: Backbone) -> None:
    policy, rng = CoordinateExit(1.5), random.Random(1)
    engine = Engine(backbone, policy, slots=3, chunk=4, record=True)
    assert isinstance(engine._live._runner, RecordedExits)
    handles = []
    for prompt in prompts(9, seed=7):
        handles.append(engine.submit(RowRequest(prompt, rng.randint(1, 14))))
        engine.step()
    while engine.step():
        pass
    for handle in handles:
        request = handle.request
        alone = decode(backbone, policy, [request.prompt], max_new_tokens=request.limit, eos_id=None, pad_id=PAD)
        assert handle.tokens == alone.sequences()[0]
        assert handle.depths == alone.depth_BT[0].tolist()


def test_the_fast_path_records_and_chooses_tokens_as_without(backbone: Backbone) -> None:
    policy = CoordinateExit(1.5)
    fast = FastPath(backbone, policy, FORMATS["float32"], records=True)
    decoding = Decoding(GenerationOptions(do_sample=True, top_k=5, no_repeat_ngram_size=2, seed=3), 12, EOS, PAD)
    request = decoding.request(prompts(3))
    assert fast.decode(request).sequences() == decode_request(backbone, policy, request).sequences()
    assert isinstance(fast._graphs[3], ExitBatches)


def test_layers_are_recorded_again_if_weights_have_moved(backbone: Backbone) -> None:
    drafting = Speculative(Planned([(0, 2, 4)]), 6, Drafting(length=2))
    exits = recorded(backbone, CoordinateExit(1.5), 3)
    drafts = DraftBatches(backbone, drafting, rows=3, prompt_columns=12, new_tokens=18)
    check(exits, prompts(3), [9] * 3, None)
    check(drafts, prompts(3), [9] * 3, None)
    before = exits._runner, drafts._passes
    check(exits, prompts(3), [9] * 3, None)
    check(drafts, prompts(3), [9] * 3, None)
    assert (exits._runner, drafts._passes) == before
    others = {name: weight + 0.01 for name, weight in backbone.state_dict().items()}
    backbone.load_state_dict(others, assign=True)
    check(exits, prompts(3), [9] * 3, None)
    check(drafts, prompts(3), [9] * 3, None)
    assert exits._runner is not before[0]
    assert drafts._passes is not before[1]


def test_other_policies_are_refused() -> None:
    backbone = tiny_backbone()
    with pytest.raises(ValueError, match="exits that are decided on the device, and rows that stay in the batch"):
        recorded(backbone, CoordinateExit(1.0, batch_policy="compact"), 2)
    compact = Engine(backbone, CoordinateExit(1.0, batch_policy="compact"), slots=2, record=True)
    assert not isinstance(compact._live._runner, RecordedExits)
