"""The cost of training in a few words."""

from skiplab.reporting.results import Row
from skiplab.reporting.training_cost import training_cost


def row(method: str, setting: str, seconds: float, models: float, key: str = "train_cpu_s") -> Row:
    return {"method": method, "setting": setting, key: seconds, "models_per_speed_range": models}


def test_a_model_per_setting_is_summed_and_a_shared_one_is_not() -> None:
    summary = [
        {"method": "full", "setting": "1x", "models_per_speed_range": 1.0},
        row("full", "1x fine-tuned", 60.0, 1.0),
        row("skipdecode", "2x", 40.0, 2.0), row("skipdecode", "3x", 30.0, 2.0),
        # Over seeds, of different settings.
        {**row("skipdecode", "calibrated delta=0.02", 35.0, 2.0), "calibrated": "2x, 3x"},
        row("calm", "softmax ~2x", 280.0, 1.0), row("calm", "classifier ~2x", 385.4, 1.0),
    ]  # fmt: skip
    assert training_cost(summary) == (
        "skipdecode 70 s for 2 models, calm 280 to 385 s for one model (CPU seconds per seed)"
    )


def test_without_training_nothing_is_said_and_a_gpus_seconds_come_first() -> None:
    assert training_cost([{"method": "full", "setting": "1x"}]) == ""
    assert (
        training_cost([row("calm", "a", 12.0, 1.0, "train_gpu_s")]) == "calm 12 s for one model (GPU seconds per seed)"
    )
