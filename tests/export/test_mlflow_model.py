"""Saved methods in MLflow's registry, and served by MLflow."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from skiplab.engine.generation import GenerationOptions
from skiplab.export.mlflow_model import PARAMS
from skiplab.export.saved_method import load_method
from skiplab.methods.skipdecode import SkipDecode
from skiplab.reporting.mlflow_tracker import MLflowTracker
from tests.export import test_saved_method
from tests.store import ready_store

PROMPTS = test_saved_method.PROMPTS[:3]
NAME = "compare_calm-skipdecode-2.5x"


@pytest.fixture
def store(tmp_path: Path) -> str:
    uri = ready_store(tmp_path)
    MLflowTracker.open(uri, "test")
    return uri


@pytest.fixture
def folder(tmp_path: Path, store: str) -> Path:
    """A saved method, registered once."""
    folder = tmp_path / "models" / "skipdecode-2x-seed-0"
    test_saved_method.saved(folder, SkipDecode(test_saved_method.setup(), speedup=2.0), speedup=2.0)
    with MLflowTracker().run("skipdecode 2x"):
        MLflowTracker().register_method(folder, NAME, tags={"seed": 0})
    return folder


def test_a_registered_method_is_a_model_with_a_signature_and_no_pickle(folder: Path) -> None:
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    expected = load_method(folder).generate(PROMPTS)
    table = pd.DataFrame({"prompt": PROMPTS})
    assert model.predict(table) == expected
    assert model.predict(table, params={"batch_size": 1}) == expected
    method = load_method(folder)
    drawn: dict[str, Any] = {"do_sample": True, "temperature": 1.4, "seed": 3, "top_k": 9}
    choices: list[dict[str, Any]] = [
        {"max_new_tokens": 3},
        {"repetition_penalty": 1.4, "suppress_tokens": [5, 6]},
        {"stop_strings": [expected[0][3:5]]},
        drawn,
        {**drawn, "num_return_sequences": 2},
    ]
    for options in choices:
        assert model.predict(table, params=options) == method.generate(PROMPTS, **options) != expected
    with pytest.raises(ValueError, match="temperature has an effect only in sampling: add do_sample=True"):
        model.predict(table, params={"temperature": 0.5})
    with pytest.raises(MlflowException, match="max_new_tokens"):
        model.predict(table, params={"max_new_tokens": "many"})
    with pytest.raises(MlflowException, match="missing inputs \\['prompt'\\]"):
        model.predict(pd.DataFrame({"text": PROMPTS}))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        model.predict(table, params={"batch_size": 0})
    (artifacts,) = (Path(path).parent for path in folder.parents[1].rglob("MLmodel"))
    names = {path.name for path in artifacts.rglob("*")}
    assert {"skiplab.json", "model.safetensors", "tokenizer.json", "saved_method.py", "multi_layer.py"} <= names
    assert not any(name.endswith((".pkl", ".bin", ".pt", ".pyc")) for name in names)
    assert "loader_module: skiplab.export.mlflow_model" in (artifacts / "MLmodel").read_text()
    pins = (artifacts / "requirements.txt").read_text().splitlines()
    assert all("==" in pin and "+" not in pin for pin in pins)
    assert {pin.partition("==")[0] for pin in pins} >= {"torch", "transformers", "mlflow"}


def test_every_option_except_nested_lists_is_a_parameter() -> None:
    assert {field.name for field in fields(GenerationOptions)} - PARAMS.keys() == {"bad_words_ids"}


def test_every_seed_is_a_version(folder: Path) -> None:
    with MLflowTracker().run("skipdecode 2x seed 1") as run_id:
        MLflowTracker().register_method(folder, NAME, tags={"seed": 1})
    found = mlflow.MlflowClient().get_model_version(NAME, "2")
    assert found.tags == {"seed": "1"}
    assert found.run_id == run_id


@contextmanager
def served(store: str, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}/latest"]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port), "--workers", "1"]
    # MLflow starts uvicorn by name, which is not found unless the environment is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        env={**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": path},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, 15)
        process.communicate(timeout=30)


def ask(port: int, path: str, content: Any = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{path}",
        data=None if content is None else json.dumps(content).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def test_mlflow_serves_it_with_its_schedule(folder: Path, store: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params: dict[str, Any] = {"batch_size": 2, "max_new_tokens": 7, "do_sample": True, "temperature": 1.3, "seed": 5}
    with served(store, port) as process:
        deadline = time.monotonic() + 200
        while True:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the server does not answer"
            try:
                ask(port, "ping")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        records = [{"prompt": prompt} for prompt in PROMPTS]
        plain = json.loads(ask(port, "invocations", {"dataframe_records": records, "params": {"batch_size": 2}}))
        drawn = json.loads(ask(port, "invocations", {"dataframe_records": records, "params": params}))
    assert plain == {"predictions": load_method(folder).generate(PROMPTS)}
    assert drawn == {"predictions": load_method(folder).generate(PROMPTS, **params)}
