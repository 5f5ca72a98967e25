"""The data module: from examples to batches."""

from typing import Any

import pytest
import torch

from skiplab.data.module import TextData
from skiplab.data.parts import LengthGrouped
from skiplab.data.restaurants import Restaurants
from skiplab.engine.batch import IGNORE

SOURCE = Restaurants(train_size=70, valid_size=20, test_size=20, references=3)


def new_data(**options: Any) -> TextData:
    merged: dict[str, Any] = {"batch_size": 8, "max_new_tokens": 64} | options
    return TextData(SOURCE, **merged)


def test_prompts_end_with_bos_and_targets_with_eos() -> None:
    data = new_data()
    assert all(prompt[-1] == data.bos_id for prompt, _ in data.train_pairs)
    assert all(target[-1] == data.eos_id for _, target in data.train_pairs)
    assert len(data.test_pairs) == 3 * 20
    item = data.items("test")[0]
    assert item.prompt_ids == data.test_pairs[0][0]
    assert len(item.references) == 3


def test_the_training_loader_serves_every_example_once_per_epoch() -> None:
    data = new_data()
    seen = [row[row != IGNORE].tolist() for part in data.train_dataloader() for row in part.batch.target_BG]
    assert sorted(seen) == sorted(target for _, target in data.train_pairs)


def test_batches_have_similar_lengths_in_shuffled_order() -> None:
    lengths = [(length // 20, length) for length in torch.randint(5, 60, (512,)).tolist()]
    sampler = LengthGrouped(lengths, batch_size=16, seed=0)
    first = list(sampler)
    batches = [[lengths[index] for index in first[at : at + 16]] for at in range(0, 512, 16)]
    assert sorted(first) == list(range(512))
    assert sum(max(batch)[1] - min(batch)[1] for batch in batches) / len(batches) < 10
    assert [max(batch) for batch in batches] != sorted(max(batch) for batch in batches)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_limit_is_the_number_of_items_kept_per_split() -> None:
    data = new_data(limit=5)
    assert [len(data.splits[name]) for name in ("train", "valid", "test")] == [5, 5, 5]
    assert data.digest != new_data().digest


def test_texts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"longest train reference has .* max_new_tokens is 5"):
        new_data(max_new_tokens=5).check(max_positions=100)
    with pytest.raises(
        ValueError, match=r"longest train prompt has .* outputs or references up to 64, the backbone has 70 positions"
    ):
        new_data().check(max_positions=70)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        new_data(limit=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        new_data(batch_size=0)
