"""How processes divide the settings of a comparison."""

from pathlib import Path

from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.prepare import prepare
from skiplab.comparison.session import Session
from skiplab.comparison.shared_work import trainings
from skiplab.utils.run_folder import RunFolder
from tests.comparison.small import small_config


def test_what_serves_several_settings_is_claimed_with_each(tmp_path: Path) -> None:
    """A training of exits, a classifier that is trained on them, and all trainings of a calibrated setting."""
    prepared = prepare(
        small_config(
            tmp_path,
            "tracking=none",
            "speedups=[1.5,2]",
            "calibration.delta=[0.5]",
            "methods.calm.sweep.confidence=[softmax,classifier]",
        )
    )
    models = ModelStore(Session(prepared, RunFolder(tmp_path / "run")))
    vars(models)["lengths"] = [9, 12, 20]
    needed = {case.entry.key: set(trainings(case.entry, case, models)) for case in prepared.cases}
    assert needed["full-1x-seed-0"] == set()
    exits = needed["multi_layer-2x-seed-0"]
    assert needed["calm-softmax-2x-seed-0"] == exits
    classifier = needed["calm-classifier-2x-seed-0"]
    assert len(exits) == 1
    assert len(classifier) == 2
    assert exits < classifier
    calibrated = next(needed[key] for key in needed if key.startswith("skipdecode-calibrated"))
    assert needed["skipdecode-2x-seed-0"] | needed["skipdecode-1.5x-seed-0"] == calibrated
    assert len(calibrated) == 2
