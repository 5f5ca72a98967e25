"""The record of one setting, from which tables, plots and the report are made."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, final

from skiplab.evaluation.generate import Generation
from skiplab.reporting.results import Row


class Setting(NamedTuple):
    """A method in one of its settings; over all seeds it is one line of a table."""

    method: str
    name: str

    def __str__(self) -> str:
        return f"{self.method} {self.name}"

    @classmethod
    def of(cls, row: Row) -> Self:
        """The setting of a result row."""
        return cls(row["method"], row["setting"])


@final
@dataclass(frozen=True)
class Entry:
    """A setting with one seed, the subject of a result row."""

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
        """The label with only characters that file systems and registries accept."""
        return re.sub(r"[^a-z0-9._+]+", "-", self.label.lower()).strip("-")

    @property
    def key(self) -> str:
        """A file name, unique within a comparison."""
        return f"{self.slug}-seed-{self.seed}"


@final
@dataclass(frozen=True)
class Timing:
    """A setting's speed at one batch size.

    Attributes:
        figures: `batch_size`, and the figures measured at it.
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
        series: shared by the settings of one curve.
        chosen: index of the candidate with which it decodes; None is full depth, or Hugging Face's `generate`.
        trained: whether it was trained, so that it depends on the seed.
        timed: whether its speed is meaningful.
        figures: its measurements, by the names of the results vocabulary.
        outputs: its outputs on the test split.
        item_scores: for figures that are means over items, the scores per test item.
        definition: class and hyperparameters as plain values; None in a record of an earlier version.
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
            ValueError: the values are not a record.
        """
        rest = dict(values)
        try:
            entry = Entry(*(rest.pop(name) for name in ("method", "setting", "seed")))
            return cls(entry=entry, outputs=Generation.from_plain(rest.pop("outputs")), **rest)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a record of this version of skiplab: {error}") from error
