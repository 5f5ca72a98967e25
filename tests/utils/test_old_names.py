"""Class names and hyperparameters of earlier versions."""

from typing import Any

import pytest

from skiplab.utils.old_names import present_name, with_present_hyperparameters

CALM = "baselines.calm.CALM"
# All hyperparameters that a comparison's method file had.
WHOLE = {
    "measure": "softmax", "vocabulary": None, "classifier_loss": "independent", "first_exit": 1, "exit_interval": 1,
    "batch_policy": "freeze", "propagation": "lazy", "temperature": None, "decay": "paper", "threshold": 0.5,
    "speedup": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("old", "present"),
    [
        ({"threshold": 0.6, "measure": "state"}, {"threshold": 0.6, "confidence": {"name": "state"}}),
        (
            WHOLE,
            {
                "confidence": {"name": "softmax"}, "exits": {"first": 1, "interval": 1}, "batch_policy": "freeze",
                "propagation": "lazy", "decay": {"formula": "paper"}, "threshold": 0.5, "speedup": None,
            },
        ),
        (
            {"measure": "classifier", "classifier_loss": "geometric", "temperature": 4, "decay": "code"},
            {
                "confidence": {"name": "classifier", "loss": "geometric"},
                "decay": {"temperature": 4, "formula": "code"},
            },
        ),
        ({"classifier_loss": "geometric", "measure": "state"}, {"confidence": {"name": "state"}}),
    ],
)  # fmt: skip
def test_old_calm_hyperparameters_become_options_of_parts(old: dict[str, Any], present: dict[str, Any]) -> None:
    assert with_present_hyperparameters(CALM, old) == present


@pytest.mark.parametrize(
    "present",
    [
        {"threshold": 0.6, "confidence": "state"},
        {"speedup": 2.0, "confidence": {"name": "classifier", "loss": "geometric"}, "exits": {"first": 2}},
        {"speedup": 2.0, "decay": {"temperature": 4, "formula": "code"}},
    ],
)
def test_present_hyperparameters_are_unchanged(present: dict[str, Any]) -> None:
    assert with_present_hyperparameters(CALM, present) == present


def test_hyperparameters_of_other_classes_are_unchanged() -> None:
    params = {"speedup": 2.0, "decay": "cosine", "horizon": None}
    assert with_present_hyperparameters("skiplab.methods.skipdecode.SkipDecode", params) == params


def test_old_class_names_map_to_the_moved_modules() -> None:
    assert present_name("skiplab.skipdecode.SkipDecode") == "skiplab.methods.skipdecode.SkipDecode"
    assert present_name(CALM) == CALM
