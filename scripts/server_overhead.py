"""The server's overhead over decoding: each request's latency minus the time during which the engine ran steps, where
callbacks that hand tokens to the server count as overhead.

    python scripts/server_overhead.py FOLDER --clients 8 --requests 400 --max-tokens 16

Prints percentiles as JSON. The clients run in a separate process; all times are from the system's monotonic clock.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import uvicorn

from skiplab.export.saved_method import SavedMethod, load_method
from skiplab.serve.app import make_app
from skiplab.serve.limits import Limits

NAME = "measured"


class Timed:
    """A saved method that records when it decoded and, within that, when tokens were handed to the server."""

    def __init__(self, method: SavedMethod) -> None:
        self._method = method
        self.steps: list[tuple[float, float]] = []
        self.handed: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def engine(self, **options: Any) -> Any:
        """As `SavedMethod.engine`."""
        engine: Any = self._method.engine(**options)
        submit, step = engine.submit, engine.step

        def submitted(request: Any, *, on_token: Any) -> Any:
            return submit(request, on_token=kept(on_token, self.handed))

        engine.submit, engine.step = submitted, kept(step, self.steps)
        return engine


def kept(function: Any, times: list[tuple[float, float]]) -> Any:
    """A wrapper of a function that records when it runs."""

    def timed(*arguments: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*arguments)
        finally:
            times.append((began, time.monotonic()))

    return timed


def overlap(busy: list[tuple[float, float]], began: float, ended: float) -> float:
    """Seconds of an interval that are covered by other intervals, given in order."""
    first = max(bisect_left(busy, (began,)) - 1, 0)
    covered = 0.0
    for start, end in busy[first:]:
        if start >= ended:
            break
        covered += max(0.0, min(end, ended) - max(start, began))
    return covered


def ask_all(address: str, clients: int, requests: int, max_tokens: int) -> list[tuple[float, float]]:
    """Start and end of each request; every client sends its next request when the last one is answered."""
    with httpx.Client(base_url=address, timeout=600, limits=httpx.Limits(max_connections=clients)) as client:

        def ask(number: int) -> tuple[float, float]:
            body = {"model": NAME, "prompt": f"the request {number}", "max_tokens": max_tokens}
            began = time.monotonic()
            client.post("/v1/completions", json=body).raise_for_status()
            return began, time.monotonic()

        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(ask, range(requests)))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Percentiles of the overhead, in milliseconds."""
    timed: Any = Timed(load_method(given.folder))
    config = uvicorn.Config(make_app(timed, NAME, Limits()), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        command = [sys.executable, __file__, given.folder, "--address", address]
        for name in ("clients", "requests", "max_tokens"):
            command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
        asked = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        server.should_exit = True
        thread.join()
    # The first round packs weights and opens connections.
    asked = sorted(asked)[2 * given.clients :]
    over = [
        1000 * (ended - began - overlap(timed.steps, began, ended) + overlap(timed.handed, began, ended))
        for began, ended in asked
    ]
    latency = [1000 * (ended - began) for began, ended in asked]
    cuts, whole = statistics.quantiles(over, n=20), statistics.quantiles(latency, n=20)
    return {
        "clients": given.clients,
        "requests": len(over),
        "overhead_ms": {"p50": cuts[9], "p90": cuts[17], "p95": cuts[18], "max": max(over)},
        "latency_ms": {"p50": whole[9], "p95": whole[18]},
    }


def main() -> None:
    """Measure; with an address, run as the clients."""
    parser = argparse.ArgumentParser(description="Measure the server's overhead over decoding.")
    parser.add_argument("folder", help="a saved method")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asked = (given.clients, given.requests, given.max_tokens)
    found: Any = ask_all(given.address, *asked) if given.address else measure(given)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
