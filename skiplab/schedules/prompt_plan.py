"""The layers that run at each position of a prompt. Pure Python.

Positions are counted in the prompt's own tokens, from 0; `n` is their number. Every layer runs a leading and a trailing
part of them. The last position must run every layer of the decode steps, because these read all of a layer's
positions from there on. Later positions attend, at each layer, to the positions that ran it; if the plan projects, to
all, the others' keys and values being projected from the states in which they left the layers.

Source of the projection: SwiftKV, arXiv 2410.03960, section 3; CALM, arXiv 2207.07061, section 3.2.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from skiplab.schedules.exit_schedule import LayerPlan


@final
@dataclass(frozen=True)
class PromptPart:
    """The positions of a prompt that run a layer: a leading share or number of them, and the last ones.

    Args:
        share: of the positions, rounded down; 1 is all of them, and a share below 1 never includes the last position.
        first: at least this many leading positions.
        last: this many trailing positions.

    Raises:
        ValueError: a value is out of its range, or it depends on the prompt's length whether the last position runs.
    """

    share: float = 0.0
    first: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.first < 0 or self.last < 0:
            raise ValueError(
                f"a share of the prompt must lie in [0, 1] and numbers of positions at 0 or above, got {self.share}, "
                f"{self.first} and {self.last}"
            )
        if self.first and not self.runs_last:
            raise ValueError(f"the first {self.first} positions of a prompt can be given only with at least 1 last one")

    @property
    def is_all(self) -> bool:
        """Whether it is the whole prompt, whatever its length."""
        return self.share == 1

    @property
    def is_none(self) -> bool:
        """Whether no position runs the layer, whatever the prompt's length."""
        return not (self.share or self.last)

    @property
    def runs_last(self) -> bool:
        """Whether the last position runs the layer."""
        return self.is_all or self.last > 0

    def ends(self, length: int) -> tuple[int, int]:
        """The numbers of leading and of trailing positions among `length`; they do not overlap."""
        if self.is_all:
            return length, 0
        # Without the small term, rounding can take an exact product below its integer.
        leading = min(length - 1, math.floor(self.share * length + 1e-9))
        leading = min(length, max(leading, self.first))
        return leading, min(self.last, length - leading)

    def count(self, length: int) -> int:
        """The number of positions that run the layer."""
        return sum(self.ends(length))

    def before(self, length: int, position: int) -> int:
        """The number of positions below `position` that run the layer."""
        leading, trailing = self.ends(length)
        return min(position, leading) + max(0, min(position, length) - max(leading, length - trailing))


ALL, NONE = PromptPart(share=1.0), PromptPart()


@final
@dataclass(frozen=True)
class PromptPlan:
    """The part of a prompt that each layer runs. Running some layers on the whole prompt is the trivial case.

    Args:
        parts: by layer; layers beyond them run no position.
        projects: whether positions that do not run a layer of the plan have keys and values there all the same.
    """

    parts: tuple[PromptPart, ...]
    projects: bool = False

    @classmethod
    def whole(cls, layers: LayerPlan) -> "PromptPlan":
        """These layers run on the whole prompt."""
        return cls(tuple(ALL if layer in layers else NONE for layer in range(max(layers, default=-1) + 1)))

    def part(self, layer: int) -> PromptPart:
        """The part that a layer runs."""
        return self.parts[layer] if layer < len(self.parts) else NONE

    @property
    def is_whole(self) -> bool:
        """Whether every layer runs on the whole prompt or not at all."""
        return all(part.is_all or part.is_none for part in self.parts)

    @property
    def last_layers(self) -> LayerPlan:
        """The layers that the last position runs: those of generation step 0."""
        return tuple(layer for layer, part in enumerate(self.parts) if part.runs_last)

    @property
    def layers(self) -> LayerPlan:
        """The layers that any position runs."""
        return tuple(layer for layer, part in enumerate(self.parts) if not part.is_none)

    def is_held_whole(self, layer: int) -> bool:
        """Whether a layer that runs has keys and values of every position."""
        return self.projects or self.part(layer).is_all

    def held(self, layer: int, length: int, position: int) -> int:
        """The number of positions below `position` whose keys and values a layer has, in a prompt of `length`."""
        part = self.part(layer)
        if part.is_none:
            return 0
        return min(position, length) if self.is_held_whole(layer) else part.before(length, position)

    def mean_depth(self, lengths: Sequence[int]) -> float:
        """Layers run per prompt token, over prompts of these lengths."""
        return sum(part.count(length) for part in self.parts for length in lengths) / sum(lengths)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"parts": [[part.share, part.first, part.last] for part in self.parts], "projects": self.projects}


def check_prompt(plan: PromptPlan, steps: Iterable[LayerPlan]) -> None:
    """Refuse a prompt plan whose last position leaves out a layer that a decode step runs.

    Args:
        steps: plans of the decode steps.

    Raises:
        ValueError: the message names the layers.
    """
    lacking = sorted({layer for step in steps for layer in step} - set(plan.last_layers))
    if lacking:
        raise ValueError(
            f"the last prompt position must run every layer of the decode steps, and this prompt plan leaves out "
            f"{lacking} there"
        )
