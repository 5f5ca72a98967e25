"""Where rows keep their keys and values, if some layers lack positions of their prompts.

Shapes: B rows that decode, S key positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.schedules.exit_schedule import LayerPlan
from skiplab.schedules.prompt_plan import PromptPlan


@final
@dataclass(frozen=True)
class RowPrompt:
    """A row's prompt, of which layers hold only parts. What a layer holds is stored without gaps.

    Attributes:
        length: tokens of the prompt.
        pads: columns of left padding by layer; empty if there is none.
    """

    plan: PromptPlan
    length: int
    pads: tuple[int, ...] = ()

    def padding(self, layer: int) -> int:
        """Columns of left padding in a layer."""
        return self.pads[layer] if self.pads else 0

    def filled(self, layer: int, position: int) -> int:
        """The filled columns of a layer, padding included, once it was given all positions below `position`."""
        held = self.plan.held(layer, self.length, position)
        return self.padding(layer) + held + max(0, position - self.length)


def row_prompts(plan: PromptPlan, decoding: LayerPlan, lengths: Sequence[int]) -> list[RowPrompt | None]:
    """The prompts of the rows of a batch, in which each layer is left-padded to the most positions that a row holds.

    Args:
        decoding: the layers that decode steps run; None for all rows if these hold the whole prompt.
    """
    if all(plan.is_held_whole(layer) for layer in decoding):
        return [None] * len(lengths)
    held_LB = [[plan.held(layer, length, length) for length in lengths] for layer in range(len(plan.parts))]
    return [
        RowPrompt(plan, length, tuple(max(held_B) - held_B[row] for held_B in held_LB))
        for row, length in enumerate(lengths)
    ]


class CacheRow(Protocol):
    """What is used of a row (`LiveRow`): which columns of each layer are padding, and which are filled."""

    @property
    def prompt(self) -> RowPrompt | None: ...
    def filled(self, layer: int) -> int: ...
    def padding(self, layer: int) -> int: ...


class Placed(NamedTuple):
    """The newest columns of rows in some layers.

    Attributes:
        columns: by row.
        column_B: the same as a tensor; None if all are equal.
        mask_BS: additive mask that hides padding and the columns after each row's newest; None hides nothing.
    """

    columns: list[int]
    column_B: Tensor | None
    mask_BS: Tensor | None


@final
class Layout:
    """Layers in which each row has the same columns.

    Args:
        layers: ascending.
        columns: width of the cache's longest layer.
    """

    def __init__(self, layers: LayerPlan, *, columns: int, backbone: Backbone) -> None:
        self.layers = layers
        self._columns = columns
        self._backbone = backbone
        self._mask_BS: Tensor | None = None

    def place(self, rows: Sequence[CacheRow]) -> Placed:
        """The newest columns of the rows, whose number and order must be as at the step before."""
        layer = self.layers[0]
        columns = [row.filled(layer) for row in rows]
        level = max(columns) == min(columns)
        column_B = None if level else torch.tensor(columns, device=self._backbone.device)
        return Placed(columns, column_B, self._mask([row.padding(layer) for row in rows], columns, level=level))

    def _mask(self, pads: Sequence[int], columns: Sequence[int], *, level: bool) -> Tensor | None:
        if level and not any(pads):
            self._mask_BS = None
        elif self._mask_BS is None:
            column_S, column_B1 = torch.arange(self._columns), torch.tensor(columns)[:, None]
            hidden_BS = (column_S < torch.tensor(pads)[:, None]) | (column_S > column_B1)
            mask_BS = torch.zeros(hidden_BS.shape, dtype=self._backbone.dtype).masked_fill_(hidden_BS, -torch.inf)
            self._mask_BS = mask_BS.to(self._backbone.device)
        elif level:
            self._mask_BS[:, columns[0]] = 0
        else:
            self._mask_BS[torch.arange(len(columns)), torch.tensor(columns)] = 0
        return self._mask_BS


def layouts(rows: Sequence[CacheRow], layers: LayerPlan, *, columns: int, backbone: Backbone) -> list[Layout]:
    """Layers by where the rows have their columns; one group if all rows hold whole prompts."""
    if all(row.prompt is None for row in rows):
        return [Layout(layers, columns=columns, backbone=backbone)]
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for layer in layers:
        groups.setdefault(tuple((row.filled(layer), row.padding(layer)) for row in rows), []).append(layer)
    return [Layout(tuple(group), columns=columns, backbone=backbone) for group in groups.values()]
