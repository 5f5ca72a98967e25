"""Quality by training cost: the models that a method needs for all its speeds, by training budget."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from skiplab.evaluation.significance import seed_item_interval
from skiplab.reporting.plot_style import Plot, axes_of, legend_outside, styles, tipped
from skiplab.reporting.record import Record
from skiplab.reporting.tables import Cell, Table
from skiplab.reporting.vocabulary import FIGURES

FLAT = 0.01
"""A training is flat if doubling its passes lowers the validation loss by less than this fraction."""

# Budgets count as equal if one exceeds the other by at most this fraction.
_SAME = 0.05


@final
@dataclass(frozen=True)
class Point:
    """A setting's record, with its place among the budgets.

    Args:
        family: shared by settings that differ only in speed and passes.
        speedup: the target layer speedup.
    """

    family: str
    passes: int
    speedup: float
    record: Record


@final
@dataclass(frozen=True)
class Budget:
    """A method's models for all its speeds, at one number of passes.

    Args:
        points: of all speedups and seeds.
    """

    family: str
    passes: int
    points: Sequence[Point]

    def cost(self, name: str) -> float:
        """A cost figure summed over a seed's models, mean over seeds."""
        by_seed: dict[int, dict[Any, float]] = {}
        for point in self.points:
            figures = point.record.figures
            # Settings that share a model have exactly the same training time, so equal values count once.
            model = (figures.get("train_cpu_s"), figures.get("train_gpu_s"))
            by_seed.setdefault(point.record.entry.seed, {})[model] = figures.get(name, 0.0)
        return sum(sum(models.values()) for models in by_seed.values()) / len(by_seed)

    @property
    def models(self) -> float:
        return self.points[0].record.figures["models_per_speed_range"]

    @property
    def time(self) -> str:
        """The name of the figure for training time."""
        return "train_gpu_s" if "train_gpu_s" in self.points[0].record.figures else "train_cpu_s"

    @cached_property
    def valid_loss(self) -> float:
        losses = [point.record.figures["valid_loss"] for point in self.points]
        return sum(losses) / len(losses)

    def quality(self, speedup: float, metric: str) -> tuple[float, float, float] | None:
        """A metric's mean over seeds and items at a speedup, with its interval; None if it was not measured."""
        scores_SI = [point.record.item_scores.get(metric) for point in self.points if point.speedup == speedup]
        measured_SI = [scores for scores in scores_SI if scores is not None]
        if not measured_SI:
            return None
        mean = sum(map(sum, measured_SI)) / sum(map(len, measured_SI))
        return (mean, *(seed_item_interval(measured_SI) or (mean, mean)))


def budgets(points: Iterable[Point]) -> list[Budget]:
    """The points by family and passes, in their order."""
    found: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        found.setdefault((point.family, point.passes), []).append(point)
    return [Budget(family, passes, members) for (family, passes), members in found.items()]


def budget_tables(found: Sequence[Budget], metric: str) -> list[Table]:
    """Two tables: every budget with its cost and quality; and quality at equal training time for all speeds."""
    return [_all_table(found, metric), *([_equal_table(found, metric)] if _first_family(found) else [])]


def budget_plot(found: Sequence[Budget], metric: str) -> Plot:
    """Quality by the training time of all models for all speeds: a panel per speedup above 1, a line per method."""
    speeds = [speedup for speedup in _speedups(found) if speedup > 1] or _speedups(found)
    figure, axes = axes_of(len(speeds))
    looks = styles(budget.family for budget in found)
    for axis, speedup in zip(axes, speeds, strict=True):
        for family in looks:
            drawn = [
                (budget.cost(budget.time), *quality)
                for budget in found
                if budget.family == family and (quality := budget.quality(speedup, metric)) is not None
            ]
            if drawn:
                time, mean, low, high = map(list, zip(*sorted(drawn), strict=True))
                below = [one - least for one, least in zip(mean, low, strict=True)]
                above = [most - one for one, most in zip(mean, high, strict=True)]
                drawn_line = axis.errorbar(
                    time, mean, yerr=(below, above), label=family, capsize=2, **looks[family].line
                )
                tipped(drawn_line.lines[:1], family)
        axis.set(xscale="log", xlabel="seconds of training, for all speeds", title=f"{speedup:g}x")
        axis.minorticks_off()
        axis.set_ylabel(FIGURES[metric].at("quality").label)
    legend_outside(figure, axes)
    sentence = "A panel per speedup, a line per method: the higher at equal time, the better. Bars are 95% intervals."
    return Plot("Quality by training time for all speeds together", sentence, figure)


def _all_table(found: Sequence[Budget], metric: str) -> Table:
    title = (
        f"Training budgets: cost of a method's models for all speeds; flat where doubling lowers the loss < {FLAT:.0%}"
    )
    table = Table(title, [*_head(found, metric), "validation loss", "with twice the passes", "flat"])
    twice = {(budget.family, budget.passes): budget for budget in found}
    for budget in found:
        line = [*_cells(budget), *_qualities(budget, found, metric), Cell(f"{budget.valid_loss:.4f}")]
        if (longer := twice.get((budget.family, 2 * budget.passes))) is not None:
            change = longer.valid_loss / budget.valid_loss - 1
            line += [Cell(f"{change:+.1%}"), Cell("yes" if change > -FLAT else "no")]
        else:
            line += [Cell(""), Cell("")]
        table.lines.append(line)
    return table


def _equal_table(found: Sequence[Budget], metric: str) -> Table:
    table = Table("Equal training time for all speeds together", ["within", *_head(found, metric)])
    first = _first_family(found)
    for limit in [budget for budget in found if budget.family == first]:
        seconds = limit.cost(limit.time)
        for family in dict.fromkeys(budget.family for budget in found):
            within = [one for one in found if one.family == family and one.cost(one.time) <= (1 + _SAME) * seconds]
            if within:
                best = max(within, key=lambda one: one.passes)
                table.lines.append([Cell(f"{seconds:,.0f} s"), *_cells(best), *_qualities(best, found, metric)])
    return table


def _head(found: Sequence[Budget], metric: str) -> list[str]:
    label = FIGURES[metric].at("quality").label
    kinds = ["method", "passes", "models", "layer-tokens", "seconds"]
    return [*kinds, *(f"{label}, {speedup:g}x" for speedup in _speedups(found))]


def _cells(budget: Budget) -> list[Cell]:
    layer_tokens, seconds = budget.cost("train_layer_tokens") / 1e6, budget.cost(budget.time)
    kinds = (budget.family, f"{budget.passes}", f"{budget.models:g}", f"{layer_tokens:,.0f} M", f"{seconds:,.0f}")
    return [Cell(text) for text in kinds]


def _qualities(budget: Budget, found: Sequence[Budget], metric: str) -> list[Cell]:
    text: Callable[[object], str] = FIGURES[metric].at("quality").text
    cells = []
    for speedup in _speedups(found):
        quality = budget.quality(speedup, metric)
        cells.append(
            Cell("") if quality is None else Cell(text(quality[0]), f"[{text(quality[1])}, {text(quality[2])}]")
        )
    return cells


def _speedups(found: Sequence[Budget]) -> list[float]:
    return sorted({point.speedup for budget in found for point in budget.points})


def _first_family(found: Sequence[Budget]) -> str | None:
    """The first method with one model per speed, to whose budgets the others are compared."""
    return next((budget.family for budget in found if budget.models > 1), None)
