"""Two processes give the losses, outputs and scores of one process, and fail together."""

import json
import os
import signal
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skiplab.comparison.prepare import ConfigurationError
from skiplab.jobs.scaling import scaling
from skiplab.utils.distributed import ALONE
from tests.comparison.small import small_config
from tests.faults.processes import Child
from tests.forked_run import as_torchrun, output
from tests.spread import RUNS, SPEC, SPREADS, curve, data, main, scores
from tests.store import ready_store


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and findings of two ranks."""
    folder = tmp_path_factory.mktemp("two")
    ready_store(folder)

    # As torchrun starts them, but forked, to save the time of imports.
    def rank(variables: dict[str, str]) -> None:
        os.environ.update(variables)
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        main(folder)

    ranks = [Child(partial(rank, variables), folder / "output.txt") for variables in as_torchrun(2)]
    while None in (codes := [one.poll() for one in ranks]) and not any(codes):
        time.sleep(0.05)
    for one in ranks:
        if one.poll() is None:
            one.send_signal(signal.SIGKILL)
    assert [one.wait() for one in ranks] == [0, 0], output(folder)
    return folder, json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize(("method", "name"), RUNS)
def test_the_loss_curve_is_that_of_one_process(two, tmp_path: Path, method: str, name: str) -> None:
    spec = replace(SPEC, precision=SPREADS[name].get("precision", "32-true"))
    one = curve(method, spec, tmp_path, ALONE)
    many = two[1][f"{method} {name}"]
    assert one["train"].keys() == many["train"].keys()
    assert len(one["train"]) == 2 * -(-len(data().train_pairs) // SPEC.batch_size)
    # In bfloat16 the parts of a batch are rounded differently from the whole.
    tolerance = 2e-3 if name.endswith("mixed") else 1e-5
    assert list(many["train"].values()) == pytest.approx(list(one["train"].values()), abs=tolerance)
    assert many["valid"] == pytest.approx(one["valid"], abs=tolerance)
    assert min(one["train"].values()) < one["train"]["1"] - 0.2


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_kept_weights_are_unsharded(two, tmp_path: Path, name: str) -> None:
    curve("full", SPEC, tmp_path, ALONE)
    one = load_file(tmp_path / "weights" / "model.safetensors")
    many = load_file(two[0] / f"full-{name}" / "weights" / "model.safetensors")
    assert one.keys() == many.keys()
    for key, weight in one.items():
        # AdamW takes full steps even for gradients that are only rounding errors, as those of key biases.
        torch.testing.assert_close(many[key], weight, atol=1e-3, rtol=0)


def test_outputs_and_scores_are_those_of_one_process(two) -> None:
    assert two[1]["scores"] == scores(ALONE)


def test_an_error_of_one_rank_is_raised_by_all(two) -> None:
    assert two[1]["failures"] == [{"on_first": "rank 0", "share": "rank 1"}] * 2


def test_a_rank_does_not_wait_for_ever_for_the_others(two) -> None:
    assert two[1]["alone"] == [True, True]


def test_several_processes_are_timed_relative_to_one(two, tmp_path: Path) -> None:
    results = json.loads((two[0] / "scaling" / "results.json").read_text())
    assert [row["setting"] for row in results["rows"]] == ["1 process", "ddp, 2 processes", "fsdp, 2 processes"]
    one, *others = results["rows"]
    assert one["train_speedup"] == 1
    for row in others:
        assert row["train_step_ms"] > 0
        assert row["train_speedup"] == pytest.approx(one["train_step_ms"] / row["train_step_ms"], rel=0.5)
    with pytest.raises(ConfigurationError, match="compares several processes with one; take trainer=ddp"):
        scaling(small_config(tmp_path, "trainer=cpu", experiment="scaling"), tmp_path)
