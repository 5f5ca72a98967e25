"""Training on the base's outputs in place of the references."""

from pathlib import Path
from typing import cast

import pytest

from skiplab.comparison.base_outputs import BaseOutputs
from skiplab.comparison.model_store import ModelStore
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.comparison.session import Session
from skiplab.engine.backbone import Backbone
from skiplab.engine.policy import FullDepth
from skiplab.evaluation.generate import generate
from skiplab.utils.run_folder import RunFolder
from tests.comparison.small import small_config

QUICK = ("tracking=none", "max_new_tokens=48")


def session(folder: Path, *overrides: str) -> Session:
    return Session(prepare(small_config(folder, *QUICK, *overrides)), RunFolder(folder / "run"))


def not_called() -> Backbone:
    raise AssertionError("the outputs were decoded again")


def test_the_targets_are_the_greedy_output_and_samples_and_are_decoded_once(tmp_path: Path) -> None:
    known = session(tmp_path)
    data, prepared = known.prepared.data, known.prepared
    backbone = prepared.new_backbone()
    outputs = BaseOutputs(known, tmp_path / "base", lambda: backbone)
    taught = outputs.training_data(3)
    items = data.items("train")
    greedy = generate(backbone, FullDepth(backbone.num_layers), data, items, batch_size=4).tokens
    pairs = list(taught.train_pairs)
    assert pairs[::3] == [(item.prompt_ids, tokens) for item, tokens in zip(items, greedy, strict=True)]
    assert len(pairs) == 3 * len(items)
    assert pairs[1::3] != pairs[::3]
    assert pairs[1::3] != pairs[2::3]
    again = BaseOutputs(known, tmp_path / "base", not_called).training_data(3)
    assert list(again.train_pairs) == pairs
    assert list(again.train_pairs.lengths) == [(len(prompt), len(target)) for prompt, target in pairs]


def test_validation_keeps_the_references(tmp_path: Path) -> None:
    known = session(tmp_path)
    backbone = known.prepared.new_backbone()
    taught = BaseOutputs(known, tmp_path / "base", lambda: backbone).training_data(1)
    data = known.prepared.data
    assert list(taught.selection_pairs) == list(data.selection_pairs)
    assert list(taught.test_pairs) == list(data.test_pairs)
    assert list(taught.train_pairs) != list(data.train_pairs)


def test_without_outputs_the_task_is_unchanged(tmp_path: Path) -> None:
    known = session(tmp_path)
    assert BaseOutputs(known, tmp_path / "base", not_called).training_data(None) is known.prepared.data


def test_trainings_of_methods_depend_on_the_number_of_outputs_and_the_base_does_not(tmp_path: Path) -> None:
    stores = []
    for overrides in ([], ["trainer.base_outputs=2"], ["trainer.base_outputs=2", "decode_dtype=bfloat16"]):
        store = ModelStore(session(tmp_path, *overrides))
        vars(store)["_base_outputs"] = cast("BaseOutputs", type("Known", (), {"lengths": [9, 12, 20]}))
        stores.append(store)
    assert len({store.base_folder for store in stores}) == 1
    folders = {
        store.folder(next(case for case in known.cases if case.entry.method == "skipdecode").candidates[0], 0)
        for store, known in zip(stores, [session(tmp_path).prepared] * 3, strict=True)
    }
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.base_outputs=0", "base_outputs must be at least 1, or null"),
        ("+base.base_outputs=1", "the base is trained on the references, got base.base_outputs=1"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepare(small_config(tmp_path, override))
