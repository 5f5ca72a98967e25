"""The server with a plain HTTP client."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from skiplab.engine.continuous import Engine
from skiplab.export.saved_method import SavedMethod
from skiplab.methods.skipdecode import SkipDecode
from skiplab.serve.__main__ import main
from tests.export.test_method import method as byte_level_method
from tests.export.test_saved_method import PROMPTS, saved, setup
from tests.serve.serving import NAME, serving

method = byte_level_method


@pytest.fixture(scope="module")
def address(method: SavedMethod) -> Iterator[str]:
    with serving(method, max_rows=4, max_new_tokens=60) as address:
        yield address


def post(address: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/completions", json={"model": NAME, "prompt": "fox", **body}, timeout=60)


def test_completions_are_the_methods_outputs(address: str, method: SavedMethod) -> None:
    prompts = ["the golden", "a café", "fox"]
    answer = post(address, prompt=prompts).json()
    assert [choice["text"] for choice in answer["choices"]] == method.generate(prompts)
    assert answer["usage"]["completion_tokens"] == sum(map(len, method.tokens(prompts)))


def test_streams_are_server_sent_events(address: str, method: SavedMethod) -> None:
    with httpx.stream(
        "POST", f"{address}/v1/completions", json={"model": NAME, "prompt": "fox", "stream": True}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, end = [line for line in answer.iter_lines() if line]
    assert end == "data: [DONE]"
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == method.generate("fox")
    assert len(choices) > 2


def test_models_health_and_metrics(address: str) -> None:
    models = httpx.get(f"{address}/v1/models").json()
    assert [model["id"] for model in models["data"]] == [NAME]
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    post(address, max_tokens=2)
    text = httpx.get(f"{address}/metrics").text
    assert 'skiplab_requests_total{endpoint="/v1/completions",status="200"}' in text
    assert "skiplab_rows_active 0.0" in text
    assert "skiplab_first_token_seconds_bucket" in text


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "other"}, 404, "there is no model 'other' here; this server has 'tiny'"),
        ({"prompt": []}, 400, "must ask for 1 to 64 outputs, got 0"),
        ({"prompt": ["a"] * 30, "n": 3, "temperature": 1}, 400, "1 to 64 outputs, got 90"),
        ({"prompt": "a" * 500}, 400, "is longer than the"),
        ({"prompt": [5, 999]}, 400, "a prompt must hold token ids from 0 to"),
        ({"prompt": None}, 400, "prompt"),
        ({"max_tokens": 61}, 400, "max_tokens must be at most 60 on this server, got 61"),
        ({"max_tokens": 0}, 400, "max_tokens: Input should be greater than or equal to 1"),
        ({"min_tokens": 50}, 400, "min_tokens=50 exceeds max_tokens=40"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 3.0}, 400, "top_p must be a number above 0 and at most 1, got 3.0"),
        ({"n": 2, "temperature": 0}, 400, "n=2 at temperature=0 would repeat one output"),
        ({"best_of": 3}, 400, "best_of"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"nothing": 1}, 400, "nothing: is not supported"),
        ({"prompt": "a" * 2**20}, 413, "a request may have at most 1048576 bytes"),
    ],
)
def test_each_bad_request_gets_a_specific_error(address: str, body: dict[str, Any], status: int, message: str) -> None:
    answer = post(address, **body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_bodies_without_json_or_length_and_unknown_paths_are_refused(address: str) -> None:
    for content, kind, message in (
        (b"{", "application/json", "JSON decode error"),
        (b'{"model": "tiny", "prompt": "fox"}', "text/plain", "must be a JSON object, with the header content-type"),
    ):
        answer = httpx.post(f"{address}/v1/completions", content=content, headers={"content-type": kind})
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]
    assert httpx.post(f"{address}/v1/completions", content=iter([b"{}"])).status_code == 411
    assert httpx.get(f"{address}/v2/x").json()["error"]["type"] == "invalid_request_error"


def wait_for(found: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gauge(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"skiplab_{name} "))


@pytest.fixture
def slow(method: SavedMethod, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Slow down every layer until the event is set."""
    go = threading.Event()
    layer = type(method.backbone).layer

    def waiting(self: Any, *arguments: Any) -> Any:
        go.wait(0.05)
        return layer(self, *arguments)

    monkeypatch.setattr(type(method.backbone), "layer", waiting)
    return go


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_frees_its_row(method: SavedMethod, slow: threading.Event, stream: bool) -> None:
    with serving(method, max_rows=4) as address, httpx.Client() as client:
        body = {"model": NAME, "prompt": "fox", "max_tokens": 100, "stream": stream}
        if stream:
            with client.stream("POST", f"{address}/v1/completions", json=body) as answer:
                next(answer.iter_lines())
                assert gauge(address, "rows_active") == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{address}/v1/completions", json=body, timeout=0.5)
        wait_for(lambda: gauge(address, "rows_active") == 0)
        generated = gauge(address, "generated_tokens_total")
        assert generated < 50
        slow.set()
        assert httpx.post(f"{address}/v1/completions", json={**body, "stream": False}, timeout=60).status_code == 200


def test_a_full_queue_answers_429(method: SavedMethod, slow: threading.Event) -> None:
    with serving(method, max_rows=1, max_waiting=2) as address, ThreadPoolExecutor(4) as pool:

        def ask(_: int = 0) -> httpx.Response:
            body = {"model": NAME, "prompt": "fox", "max_tokens": 5}
            return httpx.post(f"{address}/v1/completions", json=body, timeout=60)

        running = [pool.submit(ask)]
        wait_for(lambda: gauge(address, "rows_active") == 1)
        running += [pool.submit(ask) for _ in range(2)]
        wait_for(lambda: gauge(address, "rows_waiting") == 2)
        refused = ask()
        slow.set()
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert [one.result().status_code for one in running] == [200] * 3


def test_a_failed_batch_does_not_affect_the_next(method: SavedMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(method) as address:
        body = {"model": NAME, "prompt": "fox"}
        with monkeypatch.context() as broken:
            broken.setattr(Engine, "step", lambda *_: 1 / 0)
            failed = httpx.post(f"{address}/v1/completions", json=body)
            streamed = httpx.post(f"{address}/v1/completions", json={**body, "stream": True})
        assert failed.status_code == 500
        assert "decoding failed: ZeroDivisionError" in failed.json()["error"]["message"]
        assert "ZeroDivisionError" in streamed.text
        assert httpx.post(f"{address}/v1/completions", json=body).status_code == 200


def test_many_requests_are_all_answered_and_leak_no_memory(method: SavedMethod) -> None:
    prompts = ["the golden", "a café", "fox", "prices"]
    with serving(method) as address, httpx.Client(limits=httpx.Limits(max_connections=16)) as client:

        def ask(number: int) -> str:
            body = {"model": NAME, "prompt": prompts[number % 4], "max_tokens": 4 + number % 5}
            answer = client.post(f"{address}/v1/completions", json=body, timeout=60)
            assert answer.status_code == 200
            return answer.json()["choices"][0]["text"]

        with ThreadPoolExecutor(16) as pool:
            expected = {
                (p, limit): method.generate(prompts[p], max_new_tokens=4 + limit)
                for p in range(4)
                for limit in range(5)
            }
            list(pool.map(ask, range(60)))
            before = psutil.Process().memory_info().rss
            found = list(pool.map(ask, range(2000)))
        assert found == [expected[number % 4, number % 5] for number in range(2000)]
        assert psutil.Process().memory_info().rss - before < 50e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none does not exist"),
        (["skip", "--max-rows", "0"], "max_rows must be at least 1, got 0"),
        (["skip", "--dtype", "fp8"], "dtype must be one of"),
    ],
)
def test_the_command_names_what_it_cannot_serve(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "skip", SkipDecode(setup(), speedup=2.0), speedup=2.0)
    capsys.readouterr()
    folder, *options = arguments
    assert main([str(tmp_path / folder), *options]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_the_command_serves_a_folder(tmp_path: Path) -> None:
    before = saved(tmp_path / "skip", SkipDecode(setup(), speedup=2.0), speedup=2.0)
    command = [sys.executable, "-m", "skiplab.serve"]
    port = free_port()
    process = subprocess.Popen([*command, str(tmp_path / "skip"), "--port", str(port)])
    try:
        wait_for(lambda: process.poll() is not None or answers(port), seconds=120)
        answer = post(f"http://127.0.0.1:{port}", model="skip", prompt=PROMPTS[0]).json()
        assert answer["choices"][0]["text"] == before.generate(PROMPTS[0])
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False
