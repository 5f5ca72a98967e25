"""The interface of metrics. A new metric is one file, in the repository or outside it, named by the configuration.

    EXACT_MATCH = TextMetric(
        quality_figure("exact_match", "share of outputs equal to a reference", label="exact match"),
        lambda output, references: float(output in references),
    )

With `metrics=[my_package.exact_match.EXACT_MATCH]` it is a column, a plot, a difference from the rival, and a key in
`results.json`; its name is a search objective and a calibration metric.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.figures import Figure, Sense, Shown

EVERYWHERE = (Shown(place="quality"), Shown(place="difference"), Shown(place="plot"))
"""Where quality figures are shown by default."""


@final
@dataclass(frozen=True)
class Outputs:
    """The outputs to score, item by item.

    Attributes:
        texts, tokens: the outputs.
        full_tokens: the full model's outputs.
        references: one or more per item.
        ranks: among which a slow metric shares the items.
    """

    prompts: Sequence[str]
    references: Sequence[Sequence[str]]
    texts: Sequence[str]
    tokens: Sequence[Sequence[int]]
    full_tokens: Sequence[Sequence[int]]
    ranks: Ranks = ALONE


@final
@dataclass(frozen=True)
class Measured:
    """The results of a metric.

    Attributes:
        by_item: item scores by figure; their mean, with an interval over items, is the figure.
        row: figures of all items together, such as corpus BLEU, as entries of the result row.
    """

    by_item: Mapping[str, list[float]] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)


class Metric(ABC):
    """Scores outputs."""

    @property
    @abstractmethod
    def figures(self) -> tuple[Figure, ...]:
        """The figures that it measures."""

    @abstractmethod
    def measure(self, outputs: Outputs) -> Measured:
        """Measure its figures on these outputs."""


@final
@dataclass(frozen=True)
class TextMetric(Metric):
    """One score per output.

    Args:
        figure: as made by `quality_figure`.
        score: of an output against its references.

    Raises:
        ValueError: the figure is not a mean of item scores, or has no direction in which it is better.
    """

    figure: Figure
    score: Callable[[str, Sequence[str]], float]

    def __post_init__(self) -> None:
        if self.figure.interval != "items" or self.figure.sense is None:
            raise ValueError(
                f"the figure {self.figure.name} of a text metric needs interval='items' and a sense, got "
                f"{self.figure.interval!r} and {self.figure.sense!r}; make it with quality_figure"
            )

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (self.figure,)

    def measure(self, outputs: Outputs) -> Measured:
        pairs = zip(outputs.texts, outputs.references, strict=True)
        return Measured({self.figure.name: [float(self.score(text, references)) for text, references in pairs]})


def quality_figure(
    name: str,
    meaning: str,
    *,
    label: str = "",
    unit: str = "share",
    form: str = "{:.3f}",
    sense: Sense = "maximize",
    shown: tuple[Shown, ...] = EVERYWHERE,
) -> Figure:
    """The figure of item scores.

    Args:
        unit: `share` if scores are in [0, 1], which calibration needs; else another.
    """
    return Figure(
        name=name, meaning=meaning, label=label, unit=unit, form=form, sense=sense, interval="items", shown=shown
    )


def with_text(references: Sequence[str]) -> list[str]:
    """The references that are not blank; blank ones do not count.

    Raises:
        ValueError: all are blank.
    """
    found = [text for text in references if text.strip()]
    if not found:
        raise ValueError(f"an item needs a reference that is not empty, got {list(references)}; drop the item")
    return found


def is_calibratable(figure: Figure) -> bool:
    """Whether a calibration can bound the loss in a figure: item scores in [0, 1] with a sense."""
    return figure.interval == "items" and figure.unit == "share" and figure.sense is not None
