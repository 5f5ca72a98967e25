"""Deferred keys and values, against projections computed by hand."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.deferred_kv import Deferred
from skiplab.engine.kv_cache import KVCache

COLUMNS, STEPS = 2, 4


@dataclass
class Store:
    """The deferred states of four rows, and the cache that their keys and values go to."""

    backbone: Backbone
    cache: KVCache = field(init=False)
    deferred: Deferred = field(init=False)
    h_SBD: Tensor = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.cache = self.backbone.new_cache(4, [COLUMNS + STEPS] * 6)
        for buffer in (*self.cache._keys, *self.cache._values):
            buffer.zero_()
        self.deferred = Deferred(self.backbone, self.cache, rows=4, columns=COLUMNS + STEPS)
        self.h_SBD = torch.randn(STEPS, 4, 1, 24)
        # The prompts of the rows differ in length.
        self.position_SB = torch.arange(STEPS)[:, None] + torch.tensor([2, 1, 0, 2])

    def defer(self, step: int, above: list[int], rows: list[int] | None = None) -> None:
        h_B1D = self.h_SBD[step - 1] if rows is None else self.h_SBD[step - 1, rows]
        position_B = self.position_SB[step - 1] if rows is None else self.position_SB[step - 1, rows]
        columns = [COLUMNS + step - 1] * len(above)
        self.deferred.defer(h_B1D, torch.tensor(above), columns, position_B.tolist())

    def filled(self) -> set[tuple[int, int, int]]:
        """(layer, row, step) of all stored keys and values, each checked; rows have their original numbers."""
        found = set()
        for layer, (keys, values) in enumerate(zip(self.cache._keys, self.cache._values, strict=True)):
            for row, column in (keys != 0).all(-1).all(1).nonzero().tolist():
                expected = [
                    (step, origin)
                    for step in range(1, STEPS + 1)
                    for origin in range(4)
                    if torch.allclose(keys[row, :, column], self.projected(layer, step, origin)[0], atol=1e-6)
                ]
                assert len(expected) == 1
                step, origin = expected[0]
                assert column == COLUMNS + step - 1
                torch.testing.assert_close(values[row, :, column], self.projected(layer, step, origin)[1])
                found.add((layer, origin, step))
            assert not (keys[:, :, :COLUMNS] != 0).any()
        return found

    def projected(self, layer: int, step: int, row: int) -> tuple[Tensor, Tensor]:
        rotary = self.backbone.rotary(self.position_SB[step - 1, row][None, None])
        key, value = self.backbone.project_kv(layer, self.h_SBD[step - 1, row][None], rotary)
        return key[0, :, 0], value[0, :, 0]


@pytest.fixture
def store(backbone: Backbone) -> Store:
    return Store(backbone)


@torch.inference_mode()
def test_each_layer_projects_the_states_of_rows_that_exited_below_it(store: Store) -> None:
    store.defer(2, [1, 3, 6, 5])
    for layer in range(6):
        store.deferred.flush(layer)
    # Row 0 missed layers 1 to 5, row 1 layers 3 to 5, row 2 none, row 3 layer 5.
    assert store.filled() == {(layer, 0, 2) for layer in range(1, 6)} | {(3, 1, 2), (4, 1, 2), (5, 1, 2), (5, 3, 2)}


@torch.inference_mode()
def test_a_layer_projects_the_states_of_all_missed_steps_at_once(store: Store) -> None:
    store.defer(1, [6, 4, 6, 6])
    store.defer(2, [6, 5, 5, 6])
    store.defer(3, [4, 6, 6, 6])
    store.deferred.flush(5)
    assert store.filled() == {(5, 1, 1), (5, 1, 2), (5, 2, 2), (5, 0, 3)}
    store.deferred.flush(4)
    assert store.filled() - {(5, 1, 1), (5, 1, 2), (5, 2, 2), (5, 0, 3)} == {(4, 1, 1), (4, 0, 3)}


@torch.inference_mode()
def test_states_of_rows_that_do_not_run_stay_deferred(store: Store) -> None:
    store.defer(1, [3, 3, 3, 6])
    store.deferred.flush(4, torch.tensor([2, 0]))
    assert store.filled() == {(4, 0, 1), (4, 2, 1)}
    store.deferred.flush(4)
    assert store.filled() == {(4, 0, 1), (4, 1, 1), (4, 2, 1)}


@torch.inference_mode()
def test_a_deferred_state_is_projected_once(store: Store) -> None:
    store.defer(1, [3, 3, 3, 3])
    store.deferred.flush(4, torch.tensor([1]))
    store.deferred.flush(5)
    for buffer in (*store.cache._keys, *store.cache._values):
        buffer.zero_()
    store.deferred.flush(4, torch.tensor([1, 2]))
    store.deferred.flush(5)
    assert store.filled() == {(4, 2, 1)}


@torch.inference_mode()
def test_deferred_states_follow_their_rows(store: Store) -> None:
    store.defer(1, [6, 4, 6, 5])
    # Rows 0 and 2 have ended; row 3 takes the place of row 0.
    store.deferred.exchange((0, 3), (0, COLUMNS + 1))
    store.deferred.drop(2)
    store.defer(2, [6, 5], rows=[3, 1])
    store.deferred.flush(5)
    assert store.filled() == {(5, 3, 1), (5, 1, 1), (5, 1, 2)}
    assert (store.cache._keys[5][0, :, COLUMNS] != 0).all()


@torch.inference_mode()
def test_without_deferred_states_nothing_is_projected(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.backbone, "project_kv", None)
    store.deferred.flush(5)
    store.defer(1, [6, 6, 6, 6])
    store.deferred.flush(5)
    store.defer(2, [5, 6, 6, 6])
    store.deferred.flush(4)
    store.deferred.flush(5, torch.tensor([1, 2, 3]))
    with pytest.raises(TypeError, match="not callable"):
        store.deferred.flush(5)
