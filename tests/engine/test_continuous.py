"""Continuous batching: each row gets the tokens that it gets when it is decoded alone."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skiplab.engine.backbone import Backbone
from skiplab.engine.continuous import Engine, Handle, QueueFullError
from skiplab.engine.decode import decode, decode_request
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.policy import ExitPolicy, FullDepth, Planned, Scheduled
from skiplab.engine.request import Decoding, RowRequest
from skiplab.schedules.exit_schedule import ExitSchedule, skip_plan
from tests.test_conformance import reference_logits
from tests.tiny import EOS, LAYOUTS, PAD, CoordinateExit, prompts, tiny_backbone

BACKBONES = {layout: tiny_backbone(layout) for layout in LAYOUTS}
SKIP = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8), "skip")
TERMINATE = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=1, horizon=9, warmup=0), "terminate")
POLICIES: dict[str, ExitPolicy] = {"full": FullDepth(6), "skip": SKIP, "terminate": TERMINATE}


def alone(backbone: Backbone, policy: ExitPolicy, request: RowRequest) -> tuple[list[int], list[int]]:
    eos_id = request.eos_ids[0] if request.eos_ids else None
    found = decode(backbone, policy, [request.prompt], max_new_tokens=request.limit, eos_id=eos_id, pad_id=PAD)
    tokens = found.sequences()[0]
    return tokens, found.depth_BT[0, : len(tokens)].tolist()


def run(
    engine: Engine, arrivals: Sequence[tuple[int, RowRequest]], policies: Sequence[ExitPolicy | None]
) -> list[Handle]:
    """Submit each request at its step, and decode until all have ended."""
    handles: list[Handle] = []
    step, more = 0, True
    while more or len(handles) < len(arrivals):
        while len(handles) < len(arrivals) and arrivals[len(handles)][0] <= step:
            handles.append(engine.submit(arrivals[len(handles)][1], policy=policies[len(handles)]))
        more = engine.step()
        step += 1
    assert engine.active == engine.waiting == 0
    return handles


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_rows_decode_as_alone_for_any_arrivals_ends_and_schedules(data: st.DataObject) -> None:
    backbone = BACKBONES[data.draw(st.sampled_from(sorted(BACKBONES)))]
    low, high = sorted(data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6))))
    schedule = ExitSchedule(num_layers=6, max_exit=high, min_exit=low, horizon=data.draw(st.integers(2, 12)))
    kinds = [None, FullDepth(6), Scheduled(schedule, "skip"), Planned([tuple(range(6)), skip_plan(6, 3, 1)])]
    engine = Engine(
        backbone,
        SKIP,
        slots=data.draw(st.integers(1, 5)),
        chunk=data.draw(st.integers(1, 9)),
        record=data.draw(st.booleans()),
    )
    rows = data.draw(st.integers(1, 9))
    texts = prompts(rows, seed=data.draw(st.integers(0, 5)))
    arrivals = [
        (step, RowRequest(text, data.draw(st.integers(1, 14)), (EOS,) if data.draw(st.booleans()) else ()))
        for step, text in zip(
            sorted(data.draw(st.lists(st.integers(0, 20), min_size=rows, max_size=rows))), texts, strict=True
        )
    ]
    policies = [data.draw(st.sampled_from(kinds)) for _ in range(rows)]
    handles = run(engine, arrivals, policies)
    for handle, policy, (_, request) in zip(handles, policies, arrivals, strict=True):
        assert (handle.tokens, handle.depths) == alone(backbone, policy or SKIP, request)


@pytest.mark.parametrize("record", [False, True], ids=["eager", "recorded"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_equal_those_of_a_reference_without_a_cache(layout: str, policy: ExitPolicy, record: bool) -> None:
    backbone, rng = BACKBONES[layout], random.Random(3)
    arrivals = [
        (2 * number, RowRequest(prompt, rng.randint(2, 14))) for number, prompt in enumerate(prompts(8, seed=4))
    ]
    for handle in run(Engine(backbone, policy, slots=4, chunk=5, record=record), arrivals, [None] * 8):
        prompt = list(handle.request.prompt)
        logits_TV = reference_logits(backbone, policy, prompt, handle.tokens, handle.depths)
        assert logits_TV.argmax(-1).tolist() == handle.tokens


@pytest.mark.parametrize("batch_policy", ["freeze", "compact"])
def test_rows_that_exit_adaptively_decode_as_alone(backbone: Backbone, batch_policy) -> None:
    depths = set()
    for bound in (0.5, 1.5, 3.0):
        policy = CoordinateExit(bound, batch_policy=batch_policy)
        rng = random.Random(1)
        arrivals = [
            (number, RowRequest(prompt, rng.randint(1, 14))) for number, prompt in enumerate(prompts(9, seed=7))
        ]
        for handle in run(Engine(backbone, policy, slots=3, chunk=4), arrivals, [None] * 9):
            assert (handle.tokens, handle.depths) == alone(backbone, policy, handle.request)
            depths |= set(handle.depths)
    assert len(depths) > 3


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(do_sample=True, temperature=0.8, top_k=5, seed=3),
        GenerationOptions(do_sample=True, top_p=0.7, seed=3, repetition_penalty=1.4),
        GenerationOptions(no_repeat_ngram_size=2, min_new_tokens=4),
    ],
)
def test_each_row_decodes_with_its_own_options_as_alone(options: GenerationOptions) -> None:
    backbone = BACKBONES["llama"]
    decoding = Decoding(options, 10, EOS, PAD)
    others = Decoding(GenerationOptions(), 12, None, PAD)
    engine = Engine(backbone, SKIP, slots=4)
    rows = prompts(6, seed=5)
    handles = [engine.submit((decoding if place % 2 else others).row(prompt)) for place, prompt in enumerate(rows)]
    while engine.step():
        pass
    for place in (1, 3, 5):
        expected = decode_request(backbone, SKIP, decoding.request([rows[place]])).sequences()[0]
        assert handles[place].tokens == expected


def test_a_cancelled_row_leaves_at_once_and_the_others_continue(backbone: Backbone) -> None:
    engine = Engine(backbone, SKIP, slots=2)
    first, second, third = (engine.submit(RowRequest(prompt, 12)) for prompt in prompts(3, seed=2))
    for _ in range(4):
        engine.step()
    assert (engine.active, engine.waiting) == (2, 1)
    kept = list(first.tokens)
    engine.cancel(first)
    engine.cancel(first)
    engine.step()
    assert (engine.active, engine.waiting) == (2, 0)
    while engine.step():
        pass
    assert first.tokens == kept
    for handle in (second, third):
        assert handle.tokens == alone(backbone, SKIP, handle.request)[0]


def test_a_waiting_row_can_be_cancelled(backbone: Backbone) -> None:
    engine = Engine(backbone, SKIP, slots=1)
    first, second = (engine.submit(RowRequest(prompt, 3)) for prompt in prompts(2))
    engine.cancel(second)
    while engine.step():
        pass
    assert second.tokens == []
    assert len(first.tokens) == 3


def test_a_long_prompt_does_not_block_the_rows_that_decode() -> None:
    backbone = BACKBONES["pre_norm"]
    engine = Engine(backbone, SKIP, slots=2, chunk=4)
    early = engine.submit(RowRequest([5, 6], 20))
    engine.step()
    long = engine.submit(RowRequest([7] * 30, 2))
    before = len(early.tokens)
    steps = 0
    while not long.tokens:
        engine.step()
        steps += 1
    assert steps == 8
    assert len(early.tokens) == before + steps
    assert long.tokens[0] == alone(backbone, SKIP, long.request)[0][0]


def test_memory_grows_with_the_requests(backbone: Backbone) -> None:
    engine = Engine(backbone, SKIP, slots=2, max_tokens=64)
    assert engine.nbytes == 0
    engine.submit(RowRequest([5] * 3, 4))
    engine.step()
    assert engine.nbytes > 0


def test_requests_that_can_never_be_decoded_are_refused() -> None:
    backbone = BACKBONES["pre_norm"]
    engine = Engine(backbone, SKIP, slots=1, max_tokens=10, max_waiting=1)
    with pytest.raises(
        ValueError, match="of 8 prompt tokens and at most 4 new ones needs 11 positions, and this engine has 10"
    ):
        engine.submit(RowRequest([5] * 8, 4))
    for request in (RowRequest([], 4), RowRequest([5], 0)):
        with pytest.raises(ValueError, match="needs at least one prompt token and one new token"):
            engine.submit(request)
    with pytest.raises(ValueError, match="a subset of each deeper one"):
        engine.submit(RowRequest([5], 4), policy=TERMINATE)
    with pytest.raises(ValueError, match="cannot be mixed with another policy"):
        engine.submit(RowRequest([5], 4), policy=CoordinateExit(1.0))
    engine.submit(RowRequest([5], 4))
    with pytest.raises(QueueFullError, match="1 of 1 places"):
        engine.submit(RowRequest([5], 4))


@pytest.mark.parametrize("bad", [{"slots": 0}, {"slots": 1, "max_tokens": 0}, {"slots": 1, "chunk": 0}])
def test_bounds_below_one_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Engine(BACKBONES["pre_norm"], SKIP, **bad)


def test_a_rising_schedule_is_refused() -> None:
    rising = Planned([tuple(range(6)), (0, 5), (0, 4, 5)])
    with pytest.raises(ValueError, match="plans must be nested: step 2 runs layer 4"):
        Engine(BACKBONES["pre_norm"], rising, slots=1)


def test_more_positions_than_the_backbone_has_are_refused() -> None:
    with pytest.raises(ValueError, match="at most the backbone's 64 positions, got 65"):
        Engine(BACKBONES["pre_norm"], SKIP, slots=1, max_tokens=65)


@torch.inference_mode()
def test_rows_of_equal_age_run_every_layer_together(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, sizes = BACKBONES["pre_norm"], []
    layer = backbone.layer
    monkeypatch.setattr(backbone, "layer", lambda index, h, context: sizes.append(len(h)) or layer(index, h, context))
    engine = Engine(backbone, FullDepth(6), slots=4)
    for prompt in prompts(4):
        engine.submit(RowRequest(prompt, 3))
    engine.step()
    assert sizes == [4] * 12
