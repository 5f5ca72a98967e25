"""The ragged step as recorded layers; the tokens are compared in `test_continuous` too."""

import random
from typing import Any

import pytest
import torch

from skiplab.engine import continuous, recorded_rows
from skiplab.engine.backbone import Backbone
from skiplab.engine.continuous import Engine
from skiplab.engine.decode import decode
from skiplab.engine.policy import ExitPolicy, FullDepth, PromptPlanned, Scheduled
from skiplab.engine.recorded_layers import RecordedLayers
from skiplab.engine.request import RowRequest
from skiplab.schedules.exit_schedule import ExitSchedule
from skiplab.schedules.prompt_spec import PromptSpec
from tests.tiny import LAYOUTS, PAD, prompts, tiny_backbone

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
SKIP = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8), "skip")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def decoded(backbone: Backbone, policy: ExitPolicy, requests: list[RowRequest], *, slots: int) -> Engine:
    """Decode requests that arrive one by one in a recording engine, and compare each with itself alone."""
    engine = Engine(backbone, policy, slots=slots, chunk=5, record=True)
    waiting, handles = list(requests), []
    while waiting or engine.active or engine.waiting:
        if waiting:
            handles.append(engine.submit(waiting.pop(0)))
        engine.step()
        engine.step()
    for handle, request in zip(handles, requests, strict=True):
        found = decode(backbone, policy, [request.prompt], max_new_tokens=request.limit, eos_id=None, pad_id=PAD)
        assert handle.tokens == found.sequences()[0]
    return engine


def requests(count: int, *, seed: int = 0) -> list[RowRequest]:
    rng = random.Random(seed)
    return [RowRequest(prompt, rng.randint(1, 14)) for prompt in prompts(count, seed=seed)]


def recordings(engine: Engine) -> dict[Any, Any]:
    """Recorded layers, by layer, rows and width."""
    found = engine._live._runner
    assert isinstance(found, RecordedLayers)
    return {key: step for key, step in found._tensors._recorded.items() if key != "mask"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_mixed_ages_decode_as_alone(layout: str, device: str) -> None:
    backbone = tiny_backbone(layout).to(device)
    for policy in (SKIP, FullDepth(6)):
        decoded(backbone, policy, requests(12), slots=5)


def test_recordings_are_few_and_are_used_again(device: str) -> None:
    backbone = tiny_backbone().to(device)
    engine = decoded(backbone, SKIP, requests(20), slots=4)
    recorded = recordings(engine)
    # 6 layers; 1, 2 and 4 rows; one width, because no request has more than 64 positions.
    assert set(recorded) <= {(layer, rows, 64) for layer in range(6) for rows in (1, 2, 4)}
    for request in requests(10, seed=1):
        engine.submit(request)
    while engine.step():
        pass
    assert all(recordings(engine)[key] is step for key, step in recorded.items())


def test_a_longer_request_moves_the_cache_and_drops_the_recordings(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_rows, "_COLUMNS", 4)
    monkeypatch.setattr(continuous, "_COLUMN_BLOCK", 4)
    backbone = tiny_backbone().to(device)
    engine = decoded(backbone, SKIP, [RowRequest([5, 6], 3), RowRequest([7, 8], 7)], slots=2)
    assert {width for _, _, width in recordings(engine)} == {4, 8}
    handle = engine.submit(RowRequest([9, 5, 6], 40))
    while engine.step():
        pass
    assert {width for _, _, width in recordings(engine)} == {4, 8, 16, 32, 44}
    found = decode(backbone, SKIP, [[9, 5, 6]], max_new_tokens=40, eos_id=None, pad_id=PAD)
    assert handle.tokens == found.sequences()[0]


def test_prompts_that_layers_hold_in_part_decode_without_recordings(device: str) -> None:
    backbone = tiny_backbone().to(device)
    prompt = PromptSpec.of({"form": "ends", "from_layer": 3, "first": 1, "last": 2})
    assert prompt is not None
    policy = PromptPlanned(SKIP, prompt.plan(6, SKIP.plan(1)))
    engine = decoded(backbone, policy, requests(6), slots=3)
    assert not recordings(engine)
