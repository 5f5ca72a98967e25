"""The registry of figures: name, meaning, unit, format and interval of everything that results can hold."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, final

from skiplab.utils.suggestions import did_you_mean

Sense = Literal["minimize", "maximize"]
"""Whether lower or higher is better."""
IntervalKind = Literal["items", "corpus", "quartiles"]
"""`items`: bootstrap over seeds and items of a mean of item scores; `corpus`: the metric's own, of all outputs
together; `quartiles`: over rounds of timing."""
Place = Literal[
    "console", "quality", "training", "difference", "plot", "details", "speed", "throughput", "prediction", "stream"
]
"""`console`: the summary on the terminal; `difference`: columns of the difference from the rival; `plot`: quality
against speed; `details`: a table of its own of what only some readers ask for; the others are tables."""


@final
@dataclass(frozen=True, kw_only=True)
class Shown:
    """How a figure is shown at one place; None means the figure's own value.

    Args:
        position: figures of a place are in order of position, then of registration.
        yields_to: figures that replace this one at the place if they have values.
    """

    place: Place
    label: str | None = None
    form: str | None = None
    scale: float | None = None
    position: int = 0
    yields_to: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Column:
    """A figure's heading, and how its values are written."""

    label: str
    form: str
    scale: float = 1.0

    def text(self, value: object) -> str:
        """A value as it is shown."""
        scaled = value if isinstance(value, str) or self.scale == 1 else value * self.scale  # type: ignore[operator]
        return self.form.format(scaled)


@final
@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number or text that results can hold.

    Args:
        name: its key in rows.
        meaning: for the report's vocabulary.
        label: heading of its column, and label of its axis.
        unit: `share` is a number in [0, 1], `x` a speedup.
        form: format of the value times `scale`.
        sense: None where neither direction is better.
        interval: how its interval is made; None if it has none.
        shown: where.
        over_seeds: how a summary joins the seeds' values: their `mean`, or `each` different one; None leaves it out.
            Figures with item scores are averaged over seeds and items whatever this says.
        part: what holds it: a result `row`, a `summary`, or a search's `trial` alone.
        trial: where a search's trial gets it without decoding: from its `plan`, the `loss` of the references, or
            `timing`. None if it comes from scored outputs, or if trials lack it.
    """

    name: str
    meaning: str
    label: str = ""
    unit: str = ""
    form: str = "{}"
    scale: float = 1.0
    sense: Sense | None = None
    interval: IntervalKind | None = None
    shown: tuple[Shown, ...] = ()
    over_seeds: Literal["mean", "each"] | None = None
    part: Literal["row", "summary", "trial"] = "row"
    trial: Literal["plan", "loss", "timing"] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a figure's name is letters, digits and underscores, such as rouge_l; got {self.name!r}")
        if self.sense not in (None, "minimize", "maximize"):
            raise ValueError(f"sense of figure {self.name} must be minimize, maximize or None, got {self.sense!r}")

    def at(self, place: Place) -> Column:
        """How it is shown at a place.

        Raises:
            KeyError: it is not shown there.
        """
        shown = self.shown_at(place)
        if shown is None:
            raise KeyError(f"figure {self.name} is not shown at {place}")
        return Column(
            shown.label or self.label or self.name.replace("_", " "),
            shown.form or self.form,
            self.scale if shown.scale is None else shown.scale,
        )

    def shown_at(self, place: Place) -> Shown | None:
        return next((shown for shown in self.shown if shown.place == place), None)

    @property
    def row_keys(self) -> dict[str, str]:
        """Its keys in a result row, with their meanings."""
        if self.part != "row":
            return {}
        spread = {
            "items": {f"{self.name}_ci95": "its 95% bootstrap interval over items"},
            "corpus": {f"{self.name}_ci95": "its 95% bootstrap interval over items, the score made anew of each draw"},
            "quartiles": {f"{self.name}_quartiles": "its first and third quartile"},
        }
        return {self.name: self.meaning, **(spread[self.interval] if self.interval else {})}

    @property
    def summary_keys(self) -> dict[str, str]:
        """Its keys in a summary row, with their meanings."""
        if self.part == "trial":
            return {}
        more: dict[str, str] = {}
        if self.interval == "corpus":
            more = {f"{self.name}_seeds": "its lowest and highest value of a seed"}
        if self.interval == "items":
            more = {
                f"{self.name}_from_full": "own mean less the full model's, paired by seed and item",
                f"{self.name}_from_full_ci95": "its 95% bootstrap interval over seeds and items",
                f"{self.name}_difference": "own mean less the rival's, paired by seed and item",
                f"{self.name}_difference_ci95": "its 95% bootstrap interval over seeds and items",
                f"{self.name}_p_value": "of no difference for these seeds, by a paired sign-flip permutation test over "
                "items, adjusted by Holm's method over all settings of the comparison",
            }
        return {**(self.row_keys or {self.name: self.meaning}), **more}


@final
class Figures:
    """Figures by name, in the order in which they were registered."""

    def __init__(self) -> None:
        self._by_name: dict[str, Figure] = {}

    def register(self, figure: Figure) -> Figure:
        """Add a figure; adding it again changes nothing.

        Raises:
            ValueError: its name, or a key made of it, belongs to another.
        """
        if self._by_name.get(figure.name) == figure:
            return figure
        for other in self:
            if taken := _keys(other) & _keys(figure):
                raise ValueError(f"figure {figure.name!r} cannot be added: {min(taken)!r} is taken by {other.name!r}")
        self._by_name[figure.name] = figure
        return figure

    def __getitem__(self, name: str) -> Figure:
        """A figure by name.

        Raises:
            ValueError: there is none; the message suggests the nearest name.
        """
        if name not in self._by_name:
            raise ValueError(f"unknown figure {name!r}{did_you_mean(name, self._by_name)}")
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Figure]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def shown(self, place: Place, present: Collection[str]) -> list[Figure]:
        """The figures of a place.

        Args:
            present: names of the figures that there are values of.
        """
        here = {figure.name: shown for figure in self if (shown := figure.shown_at(place)) and figure.name in present}

        def stays(name: str) -> bool:
            return not any(other in here and stays(other) for other in here[name].yields_to)

        return [self[name] for name in sorted(here, key=lambda name: here[name].position) if stays(name)]

    def row_keys(self) -> dict[str, str]:
        """Meanings of all keys that a result row may have."""
        return {key: meaning for figure in self for key, meaning in figure.row_keys.items()}

    def summary_keys(self) -> dict[str, str]:
        """Meanings of all keys that a summary row may have."""
        return {key: meaning for figure in self for key, meaning in figure.summary_keys.items()}


def _keys(figure: Figure) -> set[str]:
    return {figure.name, *figure.row_keys, *figure.summary_keys}


FIGURES = Figures()
"""The figures of this process. `skiplab.reporting.vocabulary` adds the built-in ones."""
