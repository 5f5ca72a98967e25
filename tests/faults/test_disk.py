"""A comparison on a full disk, and the same command once there is room again."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from skiplab.training.weights import load_or_train
from skiplab.utils.files import DiskFullError, write_text
from tests.faults.comparisons import check_whole, command, results
from tests.faults.processes import in_child
from tests.forked_run import output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("to mount a file system takes root; the test with a limit on files' sizes stands in")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def leave(disk: Path, room: int) -> None:
    """Fill a disk except for `room` bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - room)))


def test_a_full_disk_stops_a_run_which_then_resumes(undisturbed: Path, tmp_path: Path, small_disk: Path) -> None:
    shutil.copytree(undisturbed / "cache", small_disk / "cache", ignore=shutil.ignore_patterns("method-*"))
    options = (
        f"hydra.run.dir={small_disk}/run",
        f"cache_dir={small_disk}/cache",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    )
    for room in (8_000, 60_000, 200_000, 500_000):
        leave(small_disk, room)
        (tmp_path / "output.txt").unlink(missing_ok=True)
        code, told = command(tmp_path, *options), output(tmp_path)
        assert code == 1, f"with {room} bytes: {told}"
        assert f"no room left to write {small_disk}/" in told.replace("\n", ""), told
        assert "run the same command again to resume" in told.replace("\n", " ")
        assert "Traceback" not in told
        check_whole(small_disk)
    finished = sorted(path.name for path in (small_disk / "run" / "settings").iterdir())
    assert finished, "settings that finished before the disk was full are kept"
    (small_disk / "filler").unlink()
    assert command(tmp_path, *options) == 0, output(tmp_path)
    assert output(tmp_path).count("already finished") >= len(finished)
    assert results(tmp_path, small_disk / "run") == results(undisturbed)


def test_a_limit_on_file_sizes_is_reported_too(tmp_path: Path) -> None:
    """The system reports it like a full disk, and setting it needs no root rights."""
    write_text(tmp_path / "results.json", "whole")

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DiskFullError, match=rf"no room left to write {tmp_path}/results.json: make room"):
            write_text(tmp_path / "results.json", "x" * 5000)

    assert in_child(work) == 0
    assert (tmp_path / "results.json").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_checkpoints_are_kept_if_there_is_no_room_for_the_weights(tmp_path: Path) -> None:
    folder = tmp_path / "weights"

    def train(checkpoints: Path) -> None:
        checkpoints.mkdir()
        (checkpoints / "step-4.ckpt").write_text("a checkpoint")

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        with pytest.raises(DiskFullError, match=f"no room left to write {folder}: make room"):
            load_or_train(torch.nn.Linear(100, 100), folder, train)

    assert in_child(work) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.lock", "weights.training"]
    assert (tmp_path / "weights.training" / "step-4.ckpt").exists()
