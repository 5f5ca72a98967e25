"""Locks between real processes."""

import os
import subprocess
import sys
from pathlib import Path

from skiplab.utils.locks import exclusive
from skiplab.utils.run_folder import RunFolder

WAITER = """
import sys
from pathlib import Path
from skiplab.utils.run_folder import RunFolder
RunFolder(Path(sys.argv[1])).bind({"seeds": [int(sys.argv[2])]}, shared=len(sys.argv) > 3)
print("had it")
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WAITER, str(folder), *arguments]
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_second_process_waits_for_the_first_and_names_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.bind({"seeds": [0]})
    second, joining, refused = start(tmp_path, "0"), start(tmp_path, "0", "shared"), start(tmp_path, "1")
    assert second.stderr is not None
    told = second.stderr.readline()
    holder = (tmp_path / ".lock.holder").read_text()
    assert told.startswith(f"waiting for the run folder {tmp_path}: process ")
    assert f"process {os.getpid()} on " in told
    assert "pid" in holder
    assert joining.communicate()[0] == "had it\n"
    assert "holds results of another configuration" in refused.communicate()[1]
    assert second.poll() is None
    del folder
    assert second.communicate(timeout=60)[0] == "had it\n"


def test_a_lock_is_reentrant_and_leaves_no_file(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a.lock", "a"), exclusive(tmp_path / "a.lock", "a"):
        assert (tmp_path / "a.lock").exists()
    assert not list(tmp_path.glob("*.holder"))
