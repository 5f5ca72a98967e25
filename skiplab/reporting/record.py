"""The record of one setting, from which tables, plots and the report are made."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, final

from skiplab.evaluation.generate import Generation
from skiplab.reporting.results import Row


class Setting(NamedTuple):
    """A method in one of its settings: over its seeds, one line of a table."""

    method: str
    name: str

    def __str__(self) -> str:
        return f"{self.method} {self.name}"

    @classmethod
    def of(cls, row: Row) -> Self:
        """Of a result row."""
        return cls(row["method"], row["setting"])


@final
@dataclass(frozen=True)
class Entry:
    """A setting with one seed: what a result row is about."""

    method: str
    setting: str
    seed: int

    @property
    def over_seeds(self) -> Setting:
        """The setting without its seed."""
        return Setting(self.method, self.setting)

    @property
    def label(self) -> str:
        return str(self.over_seeds)

    @property
    def slug(self) -> str:
        """The label in characters that file systems and registries take."""
        return re.sub(r"[^a-z0-9._+]+", "-", self.label.lower()).strip("-")

    @property
    def key(self) -> str:
        """A name for files, unique within a comparison."""
        return f"{self.slug}-seed-{self.seed}"


@final
@dataclass(frozen=True)
class Timing:
    """A setting's speed at one batch size.

    Attributes:
        figures: `batch_size` and what was measured at it.
        step_ms: median milliseconds by decode step.
    """

    figures: Row
    step_ms: Sequence[float]

    @property
    def batch_size(self) -> int:
        return self.figures["batch_size"]


@final
@dataclass(frozen=True)
class Record:
    """One setting's outcome with one seed.

    Attributes:
        series: the settings that make one curve.
        chosen: index of the candidate that it decodes with; None means full depth, or no case.
        trained: whether its seed trained it.
        timed: whether its speed is meaningful.
        figures: what was measured of it, by names of the results vocabulary.
        outputs: what it generated of the test split.
        item_scores: scores behind figures that are means, by figure, one per test item.
        definition: what it was made from, plain values; None for a record of an earlier version.
        timings: one per timed batch size. All settings are timed in one interleaved run and stored together, so they
            are not among the plain values.
    """

    entry: Entry
    series: str
    chosen: int | None
    trained: bool
    timed: bool
    figures: Row
    outputs: Generation
    item_scores: Mapping[str, Sequence[float]]
    definition: Mapping[str, Any] | None = None
    timings: tuple[Timing, ...] = ()

    @property
    def row(self) -> Row:
        """The result row without speeds."""
        return {**vars(self.entry), **self.figures}

    def rows(self) -> list[Row]:
        """Result rows: one per timed batch size, or the one without speeds."""
        return [{**self.row, **timing.figures} for timing in self.timings] or [self.row]

    def with_timings(self, timings: Sequence[Timing]) -> "Record":
        """The record with these timings instead of its own."""
        return replace(self, timings=tuple(timings))

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON; `from_plain` reads them."""
        return {
            **vars(self.entry),
            "series": self.series,
            "chosen": self.chosen,
            "trained": self.trained,
            "timed": self.timed,
            "figures": self.figures,
            "outputs": self.outputs.plain(),
            "item_scores": dict(self.item_scores),
            "definition": self.definition,
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Record":
        """A record from plain values.

        Raises:
            ValueError: they are no record.
        """
        rest = dict(values)
        try:
            entry = Entry(*(rest.pop(name) for name in ("method", "setting", "seed")))
            return cls(entry=entry, outputs=Generation.from_plain(rest.pop("outputs")), **rest)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no record of this version of skiplab: {error}") from error
