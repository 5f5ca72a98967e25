"""When each request is served, by a clock that the test advances."""

import itertools

import pytest

from skiplab.benchmarking.arrivals import Arrival, arrivals
from skiplab.benchmarking.hf_continuous import hf_continuous_rate
from skiplab.benchmarking.streams import Continuous, StaticBatches, Stream, StreamSystem, serve
from skiplab.engine.policy import FullDepth, Scheduled
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import PAD, tiny_backbone

SKIP = Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8), "skip")
STREAM = [Arrival(0.0, 4, 3), Arrival(1.5, 2, 5), Arrival(40.0, 3, 2)]


def systems() -> dict[str, StreamSystem]:
    backbone = tiny_backbone()
    return {
        "mixed": Continuous(backbone, SKIP, slots=2, chunk=8),
        "static": StaticBatches(backbone, SKIP, slots=2, pad_id=PAD),
    }


def timed(system: StreamSystem) -> Stream:
    """Serve the stream; each step takes a second."""
    ticks = itertools.count()
    return serve(system, STREAM, lambda count: [5] * count, clock=lambda: float(next(ticks)))


def test_rows_of_mixed_ages_are_served_together() -> None:
    stream = timed(systems()["mixed"])
    # A prompt's token and the next one come in one step; the second request joins with the step from 2 on.
    assert [one.tokens_at for one in stream.served] == [[1, 1, 2], [3, 3, 4, 5, 6], [41, 41]]
    assert [one.first_token_s for one in stream.served] == [1, 1.5, 1]


def test_requests_wait_until_a_static_batch_ends() -> None:
    stream = timed(systems()["static"])
    # A fourth step finds that the batch has ended.
    assert [one.tokens_at for one in stream.served] == [[1, 2, 3], [5, 6, 7, 8, 9], [41, 42]]


def test_systems_report_the_depth_of_each_token() -> None:
    for system in systems().values():
        for one in timed(system).served:
            assert one.depths == [len(SKIP.plan(step)) for step in range(len(one.tokens_at))]


def test_figures_by_hand() -> None:
    figures = timed(systems()["mixed"]).figures(slots=2)
    assert figures["requests_per_s"] == pytest.approx(3 / 41)
    assert figures["stream_tokens_per_s"] == pytest.approx(10 / 41)
    assert figures["first_token_ms_p50"] == 1000
    assert figures["token_ms_p50"] == 1000
    assert figures["kv_bytes"] > 0
    assert 0 < figures["occupancy"] <= 1


def test_hugging_faces_continuous_batching_serves_every_request() -> None:
    stream = arrivals([(5, 4), (7, 6)], count=6, pattern="saturated", rate=1.0, seed=0)
    backbone = tiny_backbone("llama")
    requests, tokens = hf_continuous_rate(backbone, stream, lambda count: [5] * count, slots=3)
    assert tokens / requests == pytest.approx(sum(one.new_tokens for one in stream) / 6)
    # The engine's own model is unchanged.
    assert backbone.model.config._attn_implementation == "sdpa"
    assert timed(Continuous(backbone, FullDepth(6), slots=2, chunk=8)).served
