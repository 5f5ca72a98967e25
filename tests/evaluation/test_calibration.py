"""Which hypothesis a calibration chooses, and what it stores."""

import pytest

from skiplab.evaluation.calibration import CalibrationSpec, certify, stored

SPEC = CalibrationSpec(delta=[0.1], epsilon=0.05, p_value="hoeffding")
NAMES = ["slow", "medium", "fast", "reckless"]


def measured(losses: list[float], count: int = 400):
    asked: list[int] = []

    def measure(place: int) -> tuple[list[float], float]:
        asked.append(place)
        return [losses[place]] * count, 1.0 + place

    return measure, asked


def test_the_last_hypothesis_before_the_first_failure_is_chosen_and_no_later_one_measured() -> None:
    # Hoeffding: exp(-2 * 400 * (0.1 - m)^2) is at most 0.05 for a mean loss m up to 0.0388.
    measure, asked = measured([0.0, 0.03, 0.05, 0.0])
    verdict = certify(NAMES, measure, delta=0.1, spec=SPEC)
    assert verdict.chosen == 1
    assert asked == [0, 1, 2]
    assert [one.setting for one in verdict.tested] == ["slow", "medium", "fast"]
    assert verdict.tested[2].loss == pytest.approx(0.05)
    assert verdict.tested[2].p_value == pytest.approx(2.718281828 ** (-2))
    assert verdict.tested[2].layer_speedup == 3.0


def test_if_none_passes_full_depth_is_chosen_and_stored() -> None:
    measure, _ = measured([0.2, 0.0, 0.0, 0.0])
    verdict = certify(NAMES, measure, delta=0.1, spec=SPEC)
    assert verdict.chosen is None
    kept = stored(verdict, 0.1, SPEC, 400, None)
    assert kept["chosen"] == "full depth"
    assert kept["delta"] == 0.1
    assert kept["tested"][0]["p_value"] == 1


def test_if_all_pass_the_last_is_chosen() -> None:
    measure, _ = measured([0.0] * 4)
    assert certify(NAMES, measure, delta=0.1, spec=SPEC).chosen == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": "loose"}, "unknown calibration consistency 'loose'; choose one of risk, textual, exact"),
        ({"p_value": "t"}, "unknown calibration p_value 't'"),
        ({"reference": "mine"}, "unknown calibration reference 'mine'; choose one of base, own"),
        ({"p_value": "binomial"}, "losses of 0 or 1: use consistency=exact"),
        ({"epsilon": 5.0}, "epsilon must lie between 0 and 1"),
    ],
)
def test_bad_specifications_say_what_is_wrong(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrationSpec(delta=[0.1], **options)


def test_metrics_and_deltas_that_the_data_cannot_support_are_refused() -> None:
    with pytest.raises(ValueError, match=r"149 calibration items cannot certify delta=0.1 .* at least 150 items"):
        SPEC.check_items(149)
    SPEC.check_items(150)
    with pytest.raises(ValueError, match="must be one of rouge_l, slot_accuracy for this data, got 'bleu'"):
        CalibrationSpec(delta=[0.1], metric="bleu").check_metric(["rouge_l", "slot_accuracy"])


def test_with_few_items_only_attainable_deltas_are_kept() -> None:
    spec = CalibrationSpec(delta=[0.02, 0.05])
    # Bentkus: 0.98 ** 149 and 0.95 ** 59 are the first powers at or below 0.05.
    assert spec.attainable(148).delta == [0.05]
    assert spec.attainable(149).delta == [0.02, 0.05]
    assert spec.attainable(58).delta == []
