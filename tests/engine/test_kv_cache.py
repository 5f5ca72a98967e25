"""The preallocated key/value store."""

import pytest
import torch

from skiplab.engine.kv_cache import KVCache


def new_cache(slots: list[int], rows: int = 2) -> KVCache:
    return KVCache(slots, rows=rows, heads=3, head_size=4, dtype=torch.float32, device=torch.device("cpu"))


def test_update_returns_the_filled_prefix_without_copying() -> None:
    cache = new_cache([5, 3])
    first, second = torch.randn(2, 3, 2, 4), torch.randn(2, 3, 1, 4)
    cache.seek(0)
    cache.update(first, -first, 0)
    cache.seek(2)
    keys, values = cache.update(second, -second, 0)
    assert torch.equal(keys, torch.cat([first, second], dim=2))
    assert torch.equal(values, -keys)
    again, _ = cache.update(second, second, 0)
    assert again.data_ptr() == keys.data_ptr()


def test_bytes_count_each_layers_own_slots() -> None:
    assert new_cache([5, 3, 0]).nbytes == 2 * (5 + 3) * 2 * 3 * 4 * 4


def test_a_layer_without_slots_passes_its_keys_through() -> None:
    cache = new_cache([0])
    keys, values = torch.randn(2, 2, 3, 7, 4)
    assert cache.update(keys, values, 0) == (keys, values)


def test_writing_past_a_layers_slots_is_an_error() -> None:
    cache = new_cache([2])
    cache.seek(2)
    with pytest.raises(IndexError, match="layer 0 holds 2 positions, asked to write up to 3"):
        cache.update(torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 1, 4), 0)


def test_keep_moves_rows_into_the_gaps() -> None:
    cache = new_cache([4], rows=4)
    keys = torch.randn(4, 3, 2, 4)
    cache.update(keys, keys, 0)
    cache.keep([0, 3])
    cache.seek(2)
    new = torch.randn(2, 3, 1, 4)
    found, _ = cache.update(new, new, 0)
    assert torch.equal(found, torch.cat([keys[[0, 3]], new], dim=2))


def test_selected_rows_write_and_read_their_own_places() -> None:
    cache = new_cache([3], rows=4)
    first, second = torch.randn(4, 3, 2, 4), torch.randn(2, 3, 1, 4)
    cache.update(first, -first, 0)
    cache.select(torch.tensor([3, 1]))
    cache.seek(2)
    keys, values = cache.update(second, -second, 0)
    assert torch.equal(keys, torch.cat([first[[3, 1]], second], dim=2))
    assert torch.equal(values, -keys)
    cache.select(None)
    rest = torch.randn(4, 3, 1, 4)
    cache.seek(2)
    everyone, _ = cache.update(rest, rest, 0)
    assert torch.equal(everyone, torch.cat([first, rest], dim=2))


def test_selected_rows_leave_the_others_alone() -> None:
    cache = new_cache([2], rows=3)
    keys = torch.randn(3, 3, 2, 4)
    cache.update(keys, keys, 0)
    cache.select(torch.tensor([2]))
    cache.seek(1)
    cache.update(torch.zeros(1, 3, 1, 4), torch.zeros(1, 3, 1, 4), 0)
    cache.select(None)
    cache.seek(2)
    found, _ = cache.update(torch.empty(3, 3, 0, 4), torch.empty(3, 3, 0, 4), 0)
    assert torch.equal(found[:2], keys[:2])
    assert torch.equal(found[2, :, 0], keys[2, :, 0])
    assert not found[2, :, 1].any()


def test_a_layer_without_slots_passes_selected_rows_through() -> None:
    cache = new_cache([0], rows=4)
    cache.select(torch.tensor([3, 1]))
    keys, values = torch.randn(2, 2, 3, 7, 4)
    assert cache.update(keys, values, 0) == (keys, values)


def test_put_stores_single_positions() -> None:
    cache = new_cache([4, 4], rows=3)
    before = torch.randn(3, 3, 4, 4)
    for layer in range(2):
        cache.update(before, -before, layer)
    new = torch.randn(3, 3, 4)
    cache.put(1, torch.tensor([0, 2, 0]), torch.tensor([1, 3, 2]), new, -new)
    cache.seek(4)
    none = torch.empty(3, 3, 0, 4)
    expected = before.clone()
    expected[0, :, 1], expected[2, :, 3], expected[0, :, 2] = new
    for layer, kept in enumerate((before, expected)):
        keys, values = cache.update(none, none, layer)
        assert torch.equal(keys, kept)
        assert torch.equal(values, -kept)
