"""What a run cannot show."""

from skiplab.reporting.limits import limits, millions
from skiplab.reporting.results import Row


def row(**more: object) -> Row:
    return {"method": "full", "setting": "1x", "seed": 0, "test_items": 300, **more}


def test_items_seeds_size_and_time_are_limits() -> None:
    found = limits([row(), row(seed=1)], [], {"cpu": "c"}, 927_000)
    assert found[0].startswith("Quality is of 300 test items and 2 training seeds: so few seeds")
    assert "0.927 million parameters" in found[1]
    assert found[2] == "No time was measured: fewer layers need not be as much faster."


def test_a_small_split_is_warned_of_and_a_large_model_is_not() -> None:
    found = limits(
        [row(test_items=24, batch_size=1), row(batch_size=32)], [], {"cpu": "c", "gpu": "H100"}, 6_700_000_000
    )
    assert found[1] == "The test split has 24 items, fewer than 100: its figures are rough."
    assert not any("parameters" in limit for limit in found)
    assert any("Speeds are of H100, batch sizes 1 and 32" in limit for limit in found)


def test_the_full_models_further_training_and_the_noise_are_limits() -> None:
    trained = {"method": "full", "setting": "1x fine-tuned", "seeds": [0], "train_passes": 1.0}
    summary = [
        {"method": "full", "setting": "1x", "seeds": [0], "slot_accuracy": 0.99},
        {**trained, "slot_accuracy_from_full": 0.006, "slot_accuracy_from_full_ci95": [0.003, 0.009]},
    ]
    speeds = ((1, "1x", 1.0), (1, "1x fine-tuned", 1.2), (32, "1x fine-tuned", 0.94))
    timed = [row(batch_size=size, setting=name, decode_speedup=speed) for size, name, speed in speeds]
    found = limits(timed, summary, {"cpu": "c"})
    assert found[1].endswith("trained further at full depth, gains 0.006 [0.003, 0.009] of slot accuracy.")
    assert "was timed at 1.20 and 0.94 times its own speed" in found[2]


def test_weights_are_counted_in_words() -> None:
    assert [millions(count) for count in (927_000, 134_515_008, 6_658_473_984)] == [
        "0.927 million", "135 million", "6.66 billion",
    ]  # fmt: skip
