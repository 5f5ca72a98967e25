"""The order of rows in a batch in which each row has its own plan. Pure Python."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from skiplab.schedules.exit_schedule import LayerPlan


def exchanges(ranks: Sequence[Any]) -> list[tuple[int, int]]:
    """Swaps of two rows, in sequence, that sort the rows by ascending rank; rows of equal rank are interchangeable.

    Each swap brings at least one row to its final place: a row whose rank changes costs at most one swap per distinct
    rank that it passes.
    """
    current, order = list(ranks), sorted(ranks)
    found: list[tuple[int, int]] = []
    if current == order:
        return found
    for here, wanted in enumerate(order):
        if current[here] == wanted:
            continue
        there = min(
            (place for place in range(here + 1, len(order)) if current[place] == wanted != order[place]),
            # Prefer a swap that brings both rows to their places.
            key=lambda place: order[place] != current[here],
        )
        current[here], current[there] = current[there], current[here]
        found.append((here, there))
    return found


@dataclass(frozen=True)
class LayerRun:
    """Neighbouring layers that the same rows run: the first `rows` ones."""

    layers: LayerPlan
    rows: int

    def split(self, kind: Mapping[int, Any]) -> "list[LayerRun]":
        """Parts whose layers are of one kind."""
        return [LayerRun(tuple(part), self.rows) for _, part in groupby(self.layers, lambda layer: kind[layer])]


def check_chain(plans: Iterable[LayerPlan]) -> None:
    """Refuse plans that are not nested in each other, because the rows of a layer would not be neighbours.

    Raises:
        ValueError: the message names two plans that are not nested.
    """
    for shallow, deep in pairwise(sorted(set(plans), key=len)):
        if not set(shallow) <= set(deep):
            raise ValueError(
                f"rows can decode together only if every shallower plan is a subset of each deeper one, got "
                f"{list(shallow)} and {list(deep)}"
            )


def layer_runs(plans: Sequence[LayerPlan]) -> list[LayerRun]:
    """The layers of a step, in order, with the rows that run them.

    Args:
        plans: by row, in descending order of depth, each a superset of the next.
    """
    found: list[LayerRun] = []
    for layer in plans[0]:
        rows = next((row for row, plan in enumerate(plans) if layer not in plan), len(plans))
        if found and found[-1].rows == rows:
            found[-1] = LayerRun((*found[-1].layers, layer), rows)
        else:
            found.append(LayerRun((layer,), rows))
    return found
