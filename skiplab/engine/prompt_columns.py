"""The columns of a batch that run each layer, under a plan over prompt positions.

A layer that runs on part of a prompt takes its columns together as a narrower batch, so that no work is wasted on the
others; its keys and values are stored in that form too.

Shapes: B rows, P prompt columns, C columns that run a layer, T columns, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from skiplab.schedules.prompt_plan import PromptPart, PromptPlan


@final
@dataclass(frozen=True, eq=False)
class Columns:
    """The columns that run a layer.

    Attributes:
        count: their number per row, fillers included.
        index_BC: which they are, real ones ascending; None is the first `count`.
        real_BC: False at fillers, which stand in for missing columns in rows that have fewer. A filler is a column
            that does not run the layer; its result is dropped. None if there are no fillers.
        leads: whether fillers come before the real columns, which must then not attend to them.
        projected: if above 0, the number of leading columns whose keys and values are projected from their states, for
            the running columns to attend to. Otherwise running columns attend to each other alone.
    """

    count: int
    index_BC: Tensor | None = None
    real_BC: Tensor | None = None
    leads: bool = False
    projected: int = 0

    @property
    def held(self) -> int:
        """The number of columns whose keys and values the layer has."""
        return self.projected or self.count

    def take(self, values_BTX: Tensor) -> Tensor:
        """Their values, (B, C, ...)."""
        return values_BTX[:, : self.count] if self.index_BC is None else values_BTX.gather(1, self._at(values_BTX))

    def put(self, values_BTX: Tensor, own_BCX: Tensor) -> Tensor:
        """All values, (B, T, ...), with their own in place of those that they had."""
        if self.index_BC is None:
            rest_BTX = values_BTX[:, self.count :]
            return own_BCX if not rest_BTX.shape[1] else torch.cat([own_BCX, rest_BTX], dim=1)
        if self.real_BC is not None:
            own_BCX = torch.where(self.real_BC[..., None], own_BCX, self.take(values_BTX))
        dtype = torch.promote_types(values_BTX.dtype, own_BCX.dtype)
        return values_BTX.to(dtype).scatter(1, self._at(values_BTX), own_BCX.to(dtype))

    def _at(self, values_BTX: Tensor) -> Tensor:
        assert self.index_BC is not None
        return self.index_BC[..., None].expand(-1, -1, values_BTX.shape[2])


def columns_of(run_BT: Tensor, *, align: Literal["left", "right"], projected: int = 0) -> Columns:
    """The columns at which a mask is True.

    Args:
        align: the side, `left` or `right`, on which the columns of rows with fewer of them are placed; fillers are on
            the other.
        projected: as in `Columns`.
    """
    count_B = run_BT.sum(1)
    count = int(count_B.max())
    sorted_BT = (run_BT if align == "right" else ~run_BT).int().argsort(dim=1, stable=True)
    index_BC = sorted_BT[:, run_BT.shape[1] - count :] if align == "right" else sorted_BT[:, :count]
    real_BC = None if bool((count_B == count).all()) else run_BT.gather(1, index_BC)
    if real_BC is None and count and bool((index_BC == torch.arange(count, device=index_BC.device)).all()):
        return Columns(count, projected=projected if projected > count else 0)
    return Columns(count, index_BC, real_BC, leads=align == "right", projected=projected)


def runs_part(part: PromptPart, position_BT: Tensor, lengths: Sequence[int]) -> Tensor:
    """Where a prompt's positions run a layer, (B, T); False at all others.

    Args:
        position_BT: of each column in its row's prompt; -1 where there is none.
        lengths: of the rows' prompts.
    """
    ends = torch.tensor([part.ends(length) for length in lengths], device=position_BT.device)
    leading_B1, trailing_B1 = ends[:, :1], ends[:, 1:]
    length_B1 = torch.tensor(lengths, device=position_BT.device)[:, None]
    within_BT = (position_BT >= 0) & (position_BT < length_B1)
    return within_BT & ((position_BT < leading_B1) | (position_BT >= length_B1 - trailing_B1))


def batch_columns(prompt: PromptPlan, steps_L: Sequence[int], mask_BP: Tensor) -> list[Columns]:
    """The columns of each layer in a batch of left-padded prompts, each followed by generated tokens.

    Args:
        steps_L: for each layer, how many of the steps 0, 1, ... run it, from `layer_steps`.
        mask_BP: True at prompt tokens.
    """
    known: dict[tuple[PromptPart, int], Columns] = {}
    for layer, steps in enumerate(steps_L):
        key = part, generated = prompt.part(layer), max(0, steps - 1)
        if key not in known:
            known[key] = _batch_columns(part, generated, mask_BP, projects=prompt.projects)
    return [known[prompt.part(layer), max(0, steps - 1)] for layer, steps in enumerate(steps_L)]


def _batch_columns(part: PromptPart, generated: int, mask_BP: Tensor, *, projects: bool) -> Columns:
    whole = mask_BP.shape[1] + generated
    if part.is_all:
        return Columns(whole)
    if part.is_none:
        return Columns(0)
    lengths = mask_BP.sum(1).tolist()
    position_BP = torch.where(mask_BP, mask_BP.cumsum(dim=1) - 1, -1)
    run_BP = runs_part(part, position_BP, lengths)
    if torch.equal(run_BP, mask_BP):
        return Columns(whole)
    run_BT = torch.cat([run_BP, run_BP.new_ones(len(run_BP), generated)], dim=1)
    return columns_of(run_BT, align="right", projected=whole if projects else 0)
