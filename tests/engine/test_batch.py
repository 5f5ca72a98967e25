"""Padding and teacher-forced batches."""

from skiplab.engine.batch import IGNORE, collate, left_pad


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
