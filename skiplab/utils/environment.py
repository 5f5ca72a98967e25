"""The environment of a run: machine, threads, versions, revision."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "torch", "lightning", "transformers", "torchmetrics", "datasets", "sacrebleu", "mlflow", "hydra-core", "optuna",
)  # fmt: skip


def environment(seed: int | list[int], *, processes: int = 1) -> dict[str, Any]:
    """The record that stands in every `results.json`.

    Args:
        processes: of the job.
    """
    import torch

    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"skiplab": _version("skiplab")} | {name: _version(name) for name in _PACKAGES},
        "seed": seed,
    }
    return found | git_revision()


def git_revision() -> dict[str, Any]:
    """Commit of the source tree, and whether files differ from it; empty if the source is not in a git checkout."""
    source = Path(__file__).parent
    try:
        _git(source, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(source, "rev-parse", "HEAD")
        changed = _git(source.parent, "status", "--porcelain", "--", "skiplab", "baselines", "experiments")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git_revision": commit, "git_dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
