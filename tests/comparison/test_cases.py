"""Expansion of method nodes to settings."""

import pytest

from skiplab.comparison.cases import expand, rivals
from skiplab.methods.base import Optimization, Setup
from tests.tiny import tiny_backbone

SKIP = {"name": "skipdecode", "_target_": "skiplab.methods.skipdecode.SkipDecode", "sweep": {"speedup": [2, 3]}}
FULL = {"name": "full", "_target_": "skiplab.methods.full.Full", "sweep": {}}


def probe() -> Setup:
    return Setup(tiny_backbone(), [10, 12, 14], Optimization(learning_rate=1e-3))


def test_every_swept_value_and_seed_is_a_case() -> None:
    cases = expand({"full": FULL, "skipdecode": SKIP}, [0, 1], probe())
    assert [(case.entry.method, case.entry.setting, case.entry.seed) for case in cases] == [
        ("full", "1x", 0),
        ("skipdecode", "2x", 0),
        ("skipdecode", "2x", 1),
        ("skipdecode", "3x", 0),
        ("skipdecode", "3x", 1),
    ]
    assert cases[1].entry.key == "skipdecode-2x-seed-0"
    assert cases[1].candidates[0].params == {"speedup": 2}


def test_series_name_what_is_swept_beside_the_first_axis() -> None:
    node = {**SKIP, "sweep": {"speedup": [2, 3], "decay": ["linear", "cosine"]}}
    assert {case.series for case in expand({"s": node}, [0], probe())} == {
        "skipdecode decay=linear",
        "skipdecode decay=cosine",
    }


def test_a_calibrated_node_gives_a_setting_per_delta_with_ordered_hypotheses() -> None:
    node = {**SKIP, "calibrate": {"speedup": [1.5, 2, 3]}}
    cases = expand({"s": node}, [0, 1], probe(), [0.02, 0.1])
    assert [(case.entry.setting, case.entry.seed, case.delta) for case in cases] == [
        ("calibrated delta=0.02", 0, 0.02),
        ("calibrated delta=0.1", 0, 0.1),
        ("calibrated delta=0.02", 1, 0.02),
        ("calibrated delta=0.1", 1, 0.1),
    ]
    assert [candidate.setting for candidate in cases[0].candidates] == ["1.5x", "2x", "3x"]


def test_nested_hyperparameters_are_plain_values_that_a_checkpoint_can_store() -> None:
    node = {**SKIP, "sweep": {"speedup": [2], "distill": [None, {"logits": 1.0}]}}
    cases = expand({"s": node}, [0], probe())
    assert [case.entry.setting for case in cases] == ["2x", "2x distilled logits"]
    assert [type(case.candidates[0].build(probe()).hparams["distill"]) for case in cases] == [type(None), dict]


def test_rivals_share_a_speedup_or_a_calibration() -> None:
    terminate = {"name": "early_termination", "_target_": "baselines.early_termination.EarlyTermination"}
    nodes = {
        "full": FULL,
        "skip": SKIP,
        "cosine": {**SKIP, "decay": "cosine"},
        "other": {**terminate, "sweep": {"speedup": [3]}},
        "hand": {**terminate, "max_exit": 4, "min_exit": 2},
        "skip_calibrated": {**SKIP, "calibrate": {"speedup": [2]}},
        "calibrated": {**terminate, "calibrate": {"speedup": [1.5, 2]}},
    }
    found = rivals(expand(nodes, [0], probe(), [0.1]))
    assert {str(setting): str(rival) for setting, rival in found.items()} == {
        "skipdecode 2x cosine": "skipdecode 2x",
        "skipdecode 3x cosine": "skipdecode 3x",
        "early_termination 3x": "skipdecode 3x",
        "early_termination calibrated delta=0.1": "skipdecode calibrated delta=0.1",
    }


@pytest.mark.parametrize(
    ("node", "seeds", "message"),
    [
        ({**SKIP, "sweep": {"speedup": [9]}}, [0], "method skipdecode: target speedup 9 cannot be reached"),
        ({**SKIP, "decai": "linear"}, [0], "method skipdecode: .*unexpected keyword argument 'decai'"),
        ({**SKIP, "calibrate": {"speedup": [3, 2]}}, [0], r"from the slowest to the fastest, got \[3, 2\]"),
        ({**SKIP, "calibrate": {"speedup": []}}, [0], "calibrate takes one hyperparameter and a list of its values"),
        ({**SKIP, "calibrate": {"speedup": [2, 9]}}, [0], "method skipdecode: target speedup 9 cannot be reached"),
        ({**SKIP, "sweep": {"speedup": [2, 2]}}, [0], "two settings are called 'skipdecode-2x-seed-0'"),
    ],
)
def test_bad_nodes_say_what_is_wrong(node: dict, seeds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand({"x": node}, seeds, probe())


def test_only_trained_settings_sweep_passes() -> None:
    node = {
        "name": "full",
        "_target_": "skiplab.methods.full.Full",
        "sweep": {"fine_tune": [False, True], "passes": [1, 2]},
    }
    cases = expand({"full": node}, [0], probe())
    assert [(case.entry.setting, case.candidates[0].passes) for case in cases] == [
        ("1x", 1),
        ("1x fine-tuned 1 pass", 1),
        ("1x fine-tuned 2 passes", 2),
    ]


def test_settings_of_other_passes_make_another_curve_of_the_same_family() -> None:
    node = {
        "name": "s",
        "_target_": "skiplab.methods.skipdecode.SkipDecode",
        "sweep": {"speedup": [2], "passes": [1, 2]},
    }
    cases = expand({"s": node}, [0], probe())
    assert [(case.family, case.series) for case in cases] == [("s", "s passes=1"), ("s", "s passes=2")]
    assert cases[0].budget != cases[1].budget
