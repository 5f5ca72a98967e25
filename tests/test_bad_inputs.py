"""Every bad input gives one line of error within seconds, and leaves finished work untouched."""

import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from skiplab.comparison.config import ConfigurationError, load
from skiplab.run import main, run_composed
from tests.bad_inputs import FILES, INPUTS, PROCESSES, STORES, VALUES, Input
from tests.faults.processes import in_child

# Modules that a run imports late, imported here so that no child spends time on them.
for _name in (
    "skiplab.jobs.capacity", "skiplab.jobs.compare", "skiplab.jobs.scaling", "skiplab.jobs.search",
    "skiplab.jobs.throughput", "baselines.calm", "baselines.multi_layer", "datasets", "tokenizers.trainers",
    "mlflow.data.huggingface_dataset", "mlflow.store.tracking.sqlalchemy_store",
    "transformers.models.opt.modeling_opt",
):  # fmt: skip
    import_module(_name)

FINISHED = (
    "outputs/finished/results.json", "outputs/compare_calm/results.json", "outputs/compare_calm/report.html",
    "outputs/compare_calm/settings/skipdecode-9x-seed-0.json", "cache/method-0/model.safetensors",
    "cache/base-0/model.safetensors", "mlartifacts/1/a",
)  # fmt: skip
SECONDS = 20


def contents(home: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


@cache
def composed(experiment: str) -> DictConfig:
    """Hydra's configuration of an experiment. It is checked here once, which caches the type hints for the children."""
    with initialize_config_module("experiments", version_base="1.3"):
        whole = compose("config", overrides=[experiment], return_hydra_config=True)
    HydraConfig.instance().set_config(whole.copy())
    with suppress(ConfigurationError):
        load(without_hydra(whole))
    return whole


def without_hydra(whole: DictConfig) -> DictConfig:
    found = whole.copy()
    with open_dict(found):
        del found["hydra"]
    return found


def composes(given: Input) -> bool:
    """Whether an input only sets values of existing keys, so that `changed` can stand in for Hydra's command line."""
    chosen = any(word.split("=")[0] in ("trainer", "data", "backbone", "tracking") for word in given.arguments)
    return given in (*VALUES, *FILES, *STORES, *PROCESSES) and not chosen


def changed(home: Path, given: Input) -> DictConfig:
    """The configuration that Hydra would compose from the command line; only the values are parsed anew."""
    experiment, *rest = given.arguments
    whole = composed(experiment).copy()
    with open_dict(whole):
        whole.hydra.runtime.output_dir = str(home / "outputs" / "compare_calm")
        HydraConfig.instance().set_config(whole)
        for one in OverridesParser.create().parse_overrides(rest):
            OmegaConf.update(whole, one.key_or_group, one.value(), merge=False)
    return without_hydra(whole)


def run(home: Path, given: Input) -> int:
    """Run the command in a forked process, with its output in a file beside its working directory; the exit code."""

    def work() -> None:
        signal.alarm(3 * SECONDS)
        os.chdir(home)
        given.arrange(home)
        os.environ.update({"HF_HUB_OFFLINE": "1", "SKIPLAB_CACHE": str(home / "cache")})
        for name, value in given.environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        warnings.resetwarnings()
        warnings.filterwarnings("ignore", message="Starting with pandas")
        warnings.showwarning = lambda message, *_: sys.stderr.write(f"warning: {message}\n")
        try:
            if composes(given):
                run_composed(changed(home, given))
            sys.argv = ["skiplab", *given.arguments]
            main()
        except SystemExit as end:
            if isinstance(end.code, str):
                sys.stderr.write(f"{end.code}\n")
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)

    return in_child(work, home.with_suffix(".txt"))


@pytest.mark.parametrize("given", INPUTS, ids=lambda given: given.id)
def test_a_bad_input_gives_one_line_of_error_soon_and_changes_no_file(tmp_path: Path, given: Input) -> None:
    home = tmp_path / "home"
    for name in FINISHED:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    if composes(given):
        _ = composed(given.arguments[0])
    before, began = contents(home), time.monotonic()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = run(home, given)
    told = home.with_suffix(".txt").read_text()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 1, told
    assert len(told.splitlines()) == 1, told
    assert told.startswith("error: "), told
    assert given.told in told
    assert "error: unexpected" not in told
    # CPU time, so that load on the machine does not fail the test; wall-clock time has a wider limit.
    assert now.ru_utime + now.ru_stime - spent.ru_utime - spent.ru_stime < SECONDS
    assert time.monotonic() - began < 3 * SECONDS
    after = contents(home)
    assert before.items() <= after.items()
    assert not [name for name in after.keys() - before.keys() if name.startswith(("cache/base", "cache/method"))]
