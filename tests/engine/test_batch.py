"""Padding and teacher-forced batches."""

import torch

from skiplab.engine.batch import IGNORE, collate, group_by_prompt, left_pad


def test_left_pad() -> None:
    ids, mask = left_pad([[5, 6, 7], [8]], pad_id=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_collate_feeds_all_targets_but_the_last() -> None:
    batch = collate([[5, 6], [8]], [[1, 2, 3], [4]], pad_id=0)
    assert batch.input_BT.tolist() == [[5, 6, 1, 2], [0, 8, 4, 0]]
    assert batch.target_BG.tolist() == [[1, 2, 3], [4, IGNORE, IGNORE]]
    assert (batch.prompt_columns, batch.decode_steps) == (2, 2)


def test_the_end_token_of_a_shorter_target_is_fed_too() -> None:
    batch = collate([[5], [5]], [[9, 2], [9, 9, 2]], pad_id=0)
    assert batch.input_BT.tolist() == [[5, 9, 2], [5, 9, 9]]


def test_a_group_has_each_prompt_once_and_all_pairs() -> None:
    pairs = [([5, 6], [1, 2, 3]), ([8], [4]), ([5, 6], [2]), ([5, 6], [7, 7]), ([9, 9, 9], [1, 2, 3, 4])]
    groups = group_by_prompt(pairs, 0, size=2)
    assert [group.prompt_UP.tolist() for group in groups] == [[[0, 8], [5, 6]], [[9, 9, 9]]]
    assert [[len(batch.target_BG) for batch in group.batches] for group in groups] == [[2, 2], [1]]
    found = []
    for group in groups:
        for prompt_B, batch in zip(group.prompt_of, group.batches, strict=True):
            assert torch.equal(batch.prompt_mask_BP, group.mask_UP[prompt_B])
            for prompt, mask, target in zip(
                group.prompt_UP[prompt_B], batch.prompt_mask_BP, batch.target_BG, strict=True
            ):
                found.append((prompt[mask].tolist(), target[target != IGNORE].tolist()))
    assert sorted(found) == sorted(pairs)


def test_a_groups_batches_have_the_examples_of_collate() -> None:
    pairs = [([8, 9], [1, 2, 3]), ([5, 6], [4])]
    (group,) = group_by_prompt(pairs, 0, size=2)
    expected = collate([[5, 6], [8, 9]], [[4], [1, 2, 3]], pad_id=0)
    for found, part in zip(group.batches[0], expected, strict=True):
        assert torch.equal(found, part)
