"""Streams of requests."""

from pathlib import Path

import numpy as np
import pytest

from skiplab.benchmarking.arrivals import arrivals, read_trace

LENGTHS = [(3, 5), (4, 9), (7, 2)]


@pytest.mark.parametrize("pattern", ["poisson", "bursty"])
def test_the_rate_is_as_requested(pattern: str) -> None:
    counts = [arrivals(LENGTHS, count=400, pattern=pattern, rate=5.0, seed=seed)[-1].at for seed in range(30)]
    assert np.mean(counts) == pytest.approx(400 / 5, rel=0.1)


def test_streams_with_one_seed_differ_only_in_pace() -> None:
    slow, fast = (arrivals(LENGTHS, count=20, pattern="poisson", rate=rate, seed=3) for rate in (1.0, 4.0))
    assert [one.at for one in slow] == pytest.approx([4 * one.at for one in fast])
    assert [(one.prompt_tokens, one.new_tokens) for one in slow] == [
        (one.prompt_tokens, one.new_tokens) for one in fast
    ]
    assert {(one.prompt_tokens, one.new_tokens) for one in slow} == set(LENGTHS)


def test_all_requests_of_a_saturated_stream_arrive_at_once() -> None:
    assert {one.at for one in arrivals(LENGTHS, count=5, pattern="saturated", rate=1.0, seed=0)} == {0.0}


def test_requests_of_a_burst_arrive_together() -> None:
    times = [one.at for one in arrivals(LENGTHS, count=200, pattern="bursty", rate=1.0, seed=1)]
    assert 200 / len(set(times)) > 4


def test_a_trace_is_read_in_order_of_time(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"at": 2, "prompt_tokens": 3, "new_tokens": 4}\n\n{"at": 0.5, "prompt_tokens": 1, "new_tokens": 2}\n'
    )
    assert [(one.at, one.prompt_tokens, one.new_tokens) for one in read_trace(trace)] == [(0.5, 1, 2), (2.0, 3, 4)]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1, 2, 3]",
        '{"at": 1, "prompt_tokens": 3}',
        '{"at": -1, "prompt_tokens": 3, "new_tokens": 4}',
        '{"at": NaN, "prompt_tokens": 3, "new_tokens": 4}',
        '{"at": 1, "prompt_tokens": 0, "new_tokens": 4}',
        '{"at": 1, "prompt_tokens": true, "new_tokens": 4}',
        '{"at": "1", "prompt_tokens": 3, "new_tokens": 4}',
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at": 0, "prompt_tokens": 3, "new_tokens": 4}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"trace\.jsonl:2: "):
        read_trace(trace)


@pytest.mark.parametrize(("text", "message"), [(None, "is not a file"), ("\n", "has no requests")])
def test_a_trace_without_requests_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    trace = tmp_path / "trace.jsonl"
    if text is not None:
        trace.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trace(trace)
