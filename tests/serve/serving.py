"""A server in the test's own process, on a free port."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from skiplab.export.saved_method import SavedMethod
from skiplab.serve.limits import Limits

uvicorn: Any = pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
make_app = pytest.importorskip("skiplab.serve.app", reason="the extra serve is not installed").make_app

NAME = "tiny"


@contextmanager
def serving(method: SavedMethod, **limits: Any) -> Iterator[str]:
    """Start the server; yields its address."""
    config = uvicorn.Config(make_app(method, NAME, Limits(**limits)), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
