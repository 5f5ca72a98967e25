"""Runs the commands and Python lines of README and docs at toy size: `python scripts/check_docs.py [WORD ...]`.

Only commands that contain all the words, and none of those after `--without`, are run. Everything happens in one
temporary folder, page after page, so that a command finds what an earlier one left. What cannot run here, for lack of a
GPU, a cluster or a network, is composed, so that names and values are checked, or is listed with the reason. `--full`
runs the tutorial at its own size (minutes), `--list` shows what would be done. Result pages are records of past runs,
and are not checked.
"""

import argparse
import os
import random
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "using_a_method.md",
    *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "using_a_method.md"}),
    ROOT / "CONTRIBUTING.md",
)
# The most seconds of a command; the slowest takes four minutes of processor time.
_PATIENCE = 3600
_SMALL_BACKBONE = ("backbone.hidden_size=16", "backbone.num_heads=2")
_SMALL_DATA = ("data.train_size=64", "data.valid_size=60", "data.test_size=16")
_QUICK = ("benchmark.rounds=2", "benchmark.batch_sizes=[1]", "benchmark.prompts=2", "benchmark.warmup=0")
_SHORT = (
    "base.max_epochs=1",
    "trainer.max_epochs=1",
    "calibration.delta=[0.3]",
    "calibration.epsilon=0.9",
    "seeds=[0]",
)
_SAVED = "outputs/mine/models/skipdecode-2x-seed-0"
_OWN_SIZE = {
    "throughput": ("throughput.prompt_tokens=6", "throughput.new_tokens=5", "throughput.batch_sizes=[1]"),
    "search_schedule": (
        "search.trials=6",
        "search.profile_parts=2",
        "search.profile_stages=1",
        "search.tune_steps=4",
        "search.tune_reports=2",
    ),
    "search_draft": ("drafts.trials=8", "methods.speculative.passes=1"),
    "streams": ("streams.requests=8", "streams.loads=[0.5]", "streams.patterns=[poisson]", "streams.slots=3"),
}
# Why a command is not run, by its first word.
_NOT_RUN_FIRST = {
    "pip": "installs packages",
    "python3": "makes an environment; CI does in a clean clone",
    "ruff": "CI runs it",
    "pyright": "tests/test_types.py runs it",
    "pytest": "CI runs it",
    "find": "removes files of the user's cache",
    "eval": "tests/test_run.py runs the completion",
    "autoload": "needs zsh",
    "bashcompinit": "needs zsh",
    "optuna-dashboard": "serves until it is stopped",
    "mlflow": "serves until it is stopped",
    ".": "activates the environment",
}
# The same, by a part of it.
_NOT_RUN_PART = {
    "-sc install=fish": "needs fish",
    "127.0.0.1:5001": "needs mlflow models serve",
    "hydra/launcher=submitit_slurm": "needs SLURM and its launcher",
    "scontrol": "needs SLURM",
    "scripts/gpu_checks.sh": "needs a GPU machine; TINY=1 runs it on a CPU",
    "#SBATCH": "a comment of a job script",
    "#!/bin/bash": "a comment of a job script",
}
# Commands with one of these are composed, not run.
_ELSEWHERE = ("trainer=gpu", "smollm2_135m", "torchrun", "srun")


@dataclass(frozen=True)
class Line:
    """A command, or the Python lines of a block.

    Attributes:
        page: where it stands.
        argv: its words; for Python lines, the interpreter's.
    """

    page: str
    argv: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.argv).replace("\n", "; ")


def lines() -> Iterator[Line]:
    """The commands and Python blocks of all pages, in their order."""
    for path in PAGES:
        name = str(path.relative_to(ROOT))
        for before, language, block in re.findall(r"([^\n]*)\n+```(sh|python)\n(.*?)```", path.read_text(), re.DOTALL):
            if language == "python":
                if not before.startswith("`my_"):
                    yield Line(name, ("python", "-c", block))
            else:
                yield from (Line(name, argv) for argv in _commands(block))


def own_files() -> Iterator[tuple[str, str]]:
    """The files `my_...` that pages show, with their contents."""
    for path in PAGES:
        yield from re.findall(
            r"`(my_\S+\.(?:py|yaml))`:[^\n]*\n\n```(?:python|yaml)\n(.*?)```", path.read_text(), re.DOTALL
        )


def _commands(block: str) -> Iterator[tuple[str, ...]]:
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("#"):
            yield tuple(line.split())
            continue
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield tuple(word.removeprefix(".venv/bin/") for word in words[:end])
            words = words[end + 1 :]


def why_not(line: Line, *, full: bool) -> str | None:
    """Why a line is not run; None if it is."""
    words = [word for word in line.argv if not re.match(r"[A-Z_]+=", word)]
    if words[0] in _NOT_RUN_FIRST:
        return _NOT_RUN_FIRST[words[0]]
    if "outputs/tutorial/models" in line.text or "run=outputs/tutorial" in line.text:
        return None if full else "--full runs it"
    return next((reason for part, reason in _NOT_RUN_PART.items() if part in line.text), None)


def prepared(line: Line, *, full: bool) -> tuple[str, ...]:
    """The words that are run in place of a line's: at toy size, or only composed."""
    if "skiplab.run" not in line.argv and line.argv[0] != "skiplab":
        words = (word.replace("FOLDER", _SAVED) for word in line.argv)
        return tuple(str(ROOT / word) if word.startswith("scripts/") else word for word in words)
    start = line.argv.index("skiplab.run") + 1 if "skiplab.run" in line.argv else 1
    given = [word.replace("PATH_OF_THE_CSVS", "csvs").replace("=DIR", "=csvs") for word in line.argv[start:]]
    command = ("python", "-m", "skiplab.run", *given)
    if any(word in given for word in ("--cfg", "--info", "list")):
        return command
    if line.page.endswith("tutorial.md") and (full or "experiment=smoke" in given):
        return command
    if line.page.endswith("tutorial.md") or any(one in line.text for one in _ELSEWHERE):
        return (*command, "--cfg", "job")
    return (*command, *_size(given))


def _size(given: Sequence[str]) -> list[str]:
    values = dict(word.split("=", 1) for word in given if "=" in word and not word.startswith(("-", "~", "+")))
    experiment = values.get("experiment", "")
    if experiment in ("smoke", "export"):
        return []
    size = [*_OWN_SIZE.get("throughput" if experiment == "profile" else experiment, ()), "tracking=none"]
    if experiment in ("profile", "throughput"):
        return [*size, *_SMALL_BACKBONE, "backbone.num_layers=4", "backbone.vocab_size=104"]
    if values.get("backbone") != "pretrained":
        size += _SMALL_BACKBONE
    if values.get("backbone", "").startswith("opt_1"):
        size += ["backbone.vocab_size=160"]
    if experiment == "search_schedule" and not any(name.startswith("search.st") for name in values):
        # A page's searches are in different spaces, which a study refuses.
        size += [f"search.study=study_{abs(hash(tuple(given)))}"]
    if experiment.startswith("paper_"):
        size += ["data.dir=csvs", "data.vocab_size=300"]
    elif "data" not in values:
        size += _SMALL_DATA
    if experiment == "streams":
        return [*size, "benchmark.rounds=2"]
    # A search that asks for a guarantee must give the calibration the same.
    fixed = "calibration.delta" if "search.select.guarantee" in values else None
    return [*size, "limit=16", *_QUICK, *(one for one in _SHORT if one.partition("=")[0] != fixed)]


def make_inputs(home: Path) -> None:
    """The user's files that pages speak of: a checkpoint, data, E2E's CSV files, and the pages' own."""
    sys.path.insert(0, str(ROOT))
    from tests.papers import local_copy
    from tests.test_using_a_method import write_checkpoint_and_data

    os.chdir(home)
    random.seed(0)
    write_checkpoint_and_data()
    local_copy("paper_e2e", home / "csvs")
    for name, text in own_files():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)


def run(argv: Sequence[str], home: Path, port: int) -> tuple[int, str]:
    """Exit code and output of a command; as of `timeout`, the code is 124 if it takes too long."""
    words = [sys.executable if word == "python" else word.replace(":8000", f":{port}") for word in argv]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SKIPLAB_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            words, cwd=home, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"took more than {_PATIENCE} s"
    return done.returncode, (done.stdout + done.stderr).strip()


def serve(argv: Sequence[str], home: Path, port: int) -> subprocess.Popen[str]:
    """A server that has begun to listen."""
    words = [sys.executable, *argv[1:], "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, cwd=home, env=environment, text=True, stdout=subprocess.DEVNULL)
    for _ in range(600):
        with socket.socket() as probe:
            if process.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    return process


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def check(chosen: Sequence[Line], home: Path, *, full: bool) -> Counter[str]:
    """Run lines in a folder; how many ended in which way."""
    port, server, ends = free_port(), None, Counter[str]()
    try:
        for line in chosen:
            if reason := why_not(line, full=full):
                ends["not run"] += 1
                print(f"not run    {line.page}: {line.text[:100]} ({reason})", flush=True)
                continue
            if line.argv[:3] == ("python", "-m", "skiplab.serve"):
                server = server or serve(line.argv, home, port)
                ends["served"] += 1
                print(f"serving    {line.page}: {line.text[:100]}", flush=True)
                continue
            argv, start = prepared(line, full=full), time.monotonic()
            code, output = run(argv, home, port)
            verb = "FAILED" if code else "composed" if argv[-2:] == ("--cfg", "job") else "ran"
            ends[verb] += 1
            print(f"{verb:8} {time.monotonic() - start:3.0f} s  {line.page}: {line.text[:100]}", flush=True)
            if code:
                print("\n".join(f"    {one}" for one in output.splitlines()[-8:]), flush=True)
    finally:
        if server is not None:
            server.terminate()
            server.wait()
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--without", action="append", default=[], metavar="WORD", help="leave out commands with it")
    parser.add_argument("--full", action="store_true", help="run the tutorial at its own size")
    parser.add_argument("--list", action="store_true", help="show what would be run")
    options = parser.parse_args()
    named = [(f"{line.page}: {line.text}", line) for line in lines()]
    chosen = [
        line
        for text, line in named
        if all(word in text for word in options.words) and not any(word in text for word in options.without)
    ]
    if options.list:
        for line in chosen:
            reason = why_not(line, full=options.full)
            print(f"{line.page}: {reason or shlex.join(prepared(line, full=options.full))}")
        return
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        start = time.monotonic()
        ends = check(chosen, Path(folder), full=options.full)
    counts = ", ".join(f"{number} {end}" for end, number in ends.items())
    print(f"{len(chosen)} lines in {(time.monotonic() - start) / 60:.0f} minutes: {counts}")
    raise SystemExit(1 if ends["FAILED"] else 0)


if __name__ == "__main__":
    main()
