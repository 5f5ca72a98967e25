"""The time that settings may still take."""

from pathlib import Path

import pytest

from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.pace import Pace
from skiplab.comparison.prepare import prepare
from skiplab.comparison.session import Session
from skiplab.utils.run_folder import RunFolder
from tests.comparison.small import small_config


def made(pace: Pace, seconds: float) -> None:
    pace.begin()
    pace.made(seconds)


def test_the_time_left_is_that_of_the_mean_setting_if_nothing_is_trained() -> None:
    pace = Pace()
    assert pace.left(3) == ""
    made(pace, 10)
    made(pace, 20)
    assert pace.left(4) == "about 1:00 left before timing and report"
    assert pace.left(0) == ""


def test_trainings_count_by_their_passes() -> None:
    pace = Pace()
    pace.trained(2, 60)
    made(pace, 5)
    assert pace.left(2, 4) == "about 2:10 left before timing and report"
    pace.begin()
    pace.trained(1, 60)
    pace.made(65)
    assert pace.left(2, 4) == "about 2:50 left before timing and report"


def test_there_is_no_estimate_of_trainings_before_one_was_measured() -> None:
    pace = Pace()
    made(pace, 5)
    assert pace.left(2, 4) == ""


@pytest.mark.parametrize(("workers", "text"), [(2, "0:10"), (9, "0:05")])
def test_workers_share_the_time(workers: int, text: str) -> None:
    pace = Pace()
    made(pace, 5)
    assert pace.left(4, workers=workers) == f"about {text} left before timing and report"


def test_passes_left_count_each_missing_training_once(tmp_path: Path) -> None:
    prepared = prepare(small_config(tmp_path, "tracking=none", "speedups=[1.5,2]"))
    models = ModelStore(Session(prepared, RunFolder(tmp_path / "run")))
    vars(models)["lengths"] = [9, 12, 20]
    specs = [(spec, case.entry.seed) for case in prepared.cases for spec in case.candidates]
    # The fine-tuned full model, two of SkipDecode, and one for all exits with twice the passes.
    assert models.passes_left(specs) == 1 + 2 + 2
    trained = next(spec for spec, _ in specs if spec.setting == "2x" and spec.passes is None)
    folder = models.folder(trained, 0)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert models.passes_left(specs) == 1 + 1 + 2
