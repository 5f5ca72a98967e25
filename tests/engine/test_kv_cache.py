"""The preallocated KV cache."""

import pytest
import torch

from skiplab.engine.kv_cache import KVCache, Place


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


def test_bytes_count_the_slots_of_each_layer() -> None:
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


def test_an_exchange_of_rows_copies_only_filled_columns() -> None:
    cache = new_cache([4, 4], rows=3)
    keys = torch.randn(3, 3, 3, 4)
    for layer in range(2):
        cache.update(keys, -keys, layer)
    cache.exchange(1, (0, 2), (3, 2))
    found, values = cache._keys[1], cache._values[1]
    assert torch.equal(found[0, :, :2], keys[2, :, :2])
    assert torch.equal(found[2, :, :3], keys[0])
    assert torch.equal(found[1, :, :3], keys[1])
    assert torch.equal(values[..., :2, :], -found[..., :2, :])
    assert torch.equal(cache._keys[0][:, :, :3], keys)


def test_a_row_that_is_no_longer_read_is_overwritten() -> None:
    cache = new_cache([4], rows=2)
    keys = torch.randn(2, 3, 3, 4)
    cache.update(keys, keys, 0)
    cache.exchange(0, (0, 1), (0, 3))
    assert torch.equal(cache._keys[0][0, :, :3], keys[1])


def test_rows_write_at_their_own_columns() -> None:
    cache = new_cache([4], rows=4)
    first, second = torch.randn(4, 3, 3, 4), torch.randn(2, 3, 1, 4)
    cache.update(first, -first, 0)
    cache.seek(Place(slice(1, 3), torch.tensor([1, 3]), end=4))
    keys, values = cache.update(second, -second, 0)
    assert keys.data_ptr() == cache._keys[0][1].data_ptr()
    assert keys.shape == (2, 3, 4, 4)
    for row, column, filled in ((0, 1, 1), (1, 3, 3)):
        assert torch.equal(keys[row, :, column], second[row, :, 0])
        assert torch.equal(keys[row, :, :filled], first[row + 1, :, :filled])
        assert torch.equal(values[row, :, column], -second[row, :, 0])
    assert torch.equal(cache._keys[0][[0, 3], :, :3], first[[0, 3]])


def test_rows_given_by_index_write_and_read_their_own_columns() -> None:
    cache = new_cache([3], rows=4)
    first, second = torch.randn(4, 3, 2, 4), torch.randn(2, 3, 1, 4)
    cache.update(first, -first, 0)
    cache.seek(Place(slice(0, 4), 2).pick(torch.tensor([3, 1])))
    keys, values = cache.update(second, -second, 0)
    assert torch.equal(keys, torch.cat([first[[3, 1]], second], dim=2))
    assert torch.equal(values, -keys)
    rest = torch.randn(4, 3, 1, 4)
    cache.seek(2)
    everyone, _ = cache.update(rest, rest, 0)
    assert torch.equal(everyone, torch.cat([first, rest], dim=2))


def test_picking_rows_keeps_their_columns() -> None:
    place = Place(slice(2, 5), torch.tensor([4, 0, 7]), end=8).pick(torch.tensor([2, 0]))
    assert torch.equal(torch.as_tensor(place.rows), torch.tensor([4, 2]))
    assert torch.equal(torch.as_tensor(place.column), torch.tensor([7, 4]))
    assert place.end == 8


def test_a_layer_without_slots_passes_rows_given_by_index_through() -> None:
    cache = new_cache([0], rows=4)
    cache.seek(Place(torch.tensor([3, 1]), 0))
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
