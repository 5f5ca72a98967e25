"""The preallocated key/value store."""

import pytest
import torch

from skiplab.cache import KVCache


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
