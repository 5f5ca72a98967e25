"""What a comparison found, in a few sentences that say no more than the intervals of its rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.standings import (
    MARGIN,
    REFERENCES,
    Interval,
    Standing,
    best,
    label_of,
    quality_of,
    scale_of,
    standings,
)
from skiplab.reporting.vocabulary import FIGURES

Verb = Literal["faster", "slower", "as fast", "unclear speed", "layers", "loses", "gains", "no loss"]
_MOST_METHODS = 3
_SIGNIFICANT = 0.05


@final
@dataclass(frozen=True)
class Clause:
    """One relation between a setting and the full model, in words.

    Attributes:
        verb: what the interval carries.
        value: a speedup with its quartiles, or a loss with its 95% interval; positive if the setting is worse.
        batch: batch size of a speedup.
    """

    setting: Setting
    verb: Verb
    value: Interval
    text: str
    batch: int | None = None


Part = str | Setting | Clause


@final
@dataclass(frozen=True)
class Sentence:
    """A sentence in parts; a `Setting` among them is a link to its row."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return "".join(part.text if isinstance(part, Clause) else str(part) for part in self.parts)

    @property
    def clauses(self) -> list[Clause]:
        """The relations that it states."""
        return [part for part in self.parts if isinstance(part, Clause)]


@final
@dataclass(frozen=True)
class Headline:
    """Sentences about a comparison, and the figures of the first.

    Attributes:
        figures: of the setting that the first sentence names, by a name for a tracker.
    """

    sentences: tuple[Sentence, ...]
    figures: Mapping[str, float]


def headline(rows: Sequence[Row], summary: Sequence[Row]) -> Headline:
    """Three to five sentences about a comparison; fewer if little was measured.

    Args:
        rows: result rows, one per timed batch size.
        summary: rows of `summary.summarise`.
    """
    quality = quality_of(summary)
    margin = MARGIN * scale_of(summary, quality)
    found = list(_without_quality(summary, quality))
    quality = None if found else quality
    batches = sorted({row["batch_size"] for row in rows if "decode_speedup" in row and "batch_size" in row})
    ends: list[int | None] = list(dict.fromkeys([batches[-1], batches[0]])) if batches else [None]
    picks: list[Standing | None] = []
    for batch in ends:
        candidates = standings(rows, summary, quality, batch)
        pick = best(candidates, margin)
        picks.append(pick)
        found += _about(candidates, pick, quality, margin, repeats=pick is not None and _same(pick, picks[0]))
        if batch == ends[0]:
            found += _others(candidates, pick, quality, margin)
            found += _fastest(candidates, pick, quality)
    found += _against_rivals(summary, quality)
    return Headline(tuple(found), _figures(rows, summary, quality, picks[0]))


def _without_quality(summary: Sequence[Row], quality: str | None) -> Iterator[Sentence]:
    """That losses say nothing, if the full model itself has nothing to lose."""
    value = next((row.get(quality) for row in summary if row["method"] == "full"), None) if quality else None
    if quality and value is not None and FIGURES[quality].sense == "maximize" and value <= MARGIN:
        shown = FIGURES[quality].form.format(value)
        yield Sentence((f"The full model's {label_of(quality)} is {shown}: a loss against it would say nothing.",))


def _about(
    candidates: Sequence[Standing], pick: Standing | None, quality: str | None, margin: float, *, repeats: bool
) -> Iterator[Sentence]:
    """The fastest setting that loses little at a batch size, or that none is shown to.

    Args:
        repeats: whether an earlier sentence named this setting and its loss.
    """
    if not candidates:
        return
    where = _where(candidates[0].batch)
    if quality is None:
        fastest = max(candidates, key=lambda one: one.speed)
        yield Sentence((where, fastest.setting, " ", speed_clause(fastest), ", the highest of all settings."))
    elif pick is None:
        judged = [one for one in candidates if one.loss is not None]
        none = f"{where}no" if where else "No"
        yield Sentence((f"{none} setting is shown to lose at most {_number(margin)} of {label_of(quality)}",
                        *_least(judged, quality), "."))  # fmt: skip
    elif repeats:
        yield Sentence((where, "the fastest of these is again ", pick.setting, ", which ", speed_clause(pick), "."))
    else:
        why = f"; of the settings shown to lose at most {_number(margin)}, it is the fastest"
        near = _near(pick, [one for one in candidates if one.loses_little(margin)])
        yield Sentence(
            (where, pick.setting, " ", speed_clause(pick), " and ", loss_clause(pick, quality), f"{why}{near}.")
        )


def _near(pick: Standing, others: Sequence[Standing]) -> str:
    """How many of the other settings are not measurably slower, for the end of a sentence."""
    low = pick.speed if pick.quartiles is None else pick.quartiles[0]
    near = [one for one in others if one is not pick and (one.quartiles or (one.speed, one.speed))[1] >= low]
    if not near:
        return ""
    return f", though {'one other is' if len(near) == 1 else f'{len(near)} others are'} not measurably slower"


def _least(judged: Sequence[Standing], quality: str) -> tuple[Part, ...]:
    if not judged:
        return ()
    least = min(judged, key=_most_lost)
    return "; the closest, ", least.setting, ", ", speed_clause(least), " and ", loss_clause(least, quality)


def _others(
    candidates: Sequence[Standing], pick: Standing | None, quality: str | None, margin: float
) -> Iterator[Sentence]:
    """For each further method, its fastest setting that is shown to lose little."""
    if pick is None or quality is None:
        return
    methods = [one for one in dict.fromkeys(one.setting.method for one in candidates) if one != pick.setting.method]
    named: list[tuple[Part, ...]] = []
    without: list[str] = []
    for method in methods:
        own = best([one for one in candidates if one.setting.method == method], margin)
        if own is None:
            without.append(method)
        else:
            named.append((f"the fastest of {method} is ", own.setting, ", which ", speed_clause(own)))
    said = named[:_MOST_METHODS]
    if len(named) > _MOST_METHODS:
        said.append((f"{len(named) - _MOST_METHODS} further methods have one too",))
    if without:
        said.append((f"no setting of {_listed(without)} loses so little",))
    if said:
        parts = [part for one in said for part in ("; ", *one)][1:]
        yield Sentence((f"Of the other settings shown to lose at most {_number(margin)}, ", *parts, "."))


def _fastest(candidates: Sequence[Standing], pick: Standing | None, quality: str | None) -> Iterator[Sentence]:
    """The fastest setting of all, if an earlier sentence did not name it."""
    judged = [one for one in candidates if one.loss is not None]
    if quality is None or not judged or len(judged) < len(candidates):
        return
    fastest = max(candidates, key=lambda one: one.speed)
    if fastest != (pick or min(judged, key=_most_lost)):
        yield Sentence(
            ("The highest speed is that of ", fastest.setting, ", which ", speed_clause(fastest), " and ",
             loss_clause(fastest, quality), ".")
        )  # fmt: skip


def _against_rivals(summary: Sequence[Row], quality: str | None) -> Iterator[Sentence]:
    """How many settings are better or worse than their rival of the same depth or speed."""
    if quality is None:
        return
    compared = [row for row in summary if f"{quality}_difference_ci95" in row and row["method"] not in REFERENCES]
    if not compared:
        return
    different = [row for row in compared if _is_different(row, quality)]
    better = len([row for row in different if _is_better(row, quality)])
    method = compared[0]["against"].partition(" ")[0]
    yield Sentence(
        (f"Compared with {method} at the same speedup in layers, {label_of(quality)} is worse in "
         f"{len(different) - better} of {len(compared)} settings, better in {better}, and not measurably different in "
         f"{len(compared) - len(different)} (by the interval, and p < {_SIGNIFICANT} adjusted for {len(compared)} "
         "tests).",)
    )  # fmt: skip


def _is_different(row: Row, quality: str) -> bool:
    """Whether both carry a difference: the interval, which covers items and seeds, and the p-value, which is adjusted
    for the number of settings."""
    low, high = row[f"{quality}_difference_ci95"]
    return (low > 0 or high < 0) and row[f"{quality}_p_value"] < _SIGNIFICANT


def _is_better(row: Row, quality: str) -> bool:
    """Whether the mean difference from the rival is in the setting's favour."""
    return (row[f"{quality}_difference"] > 0) == (FIGURES[quality].sense != "minimize")


def speed_clause(one: Standing) -> Clause:
    """How fast a setting is, as far as its quartiles carry it."""
    if one.batch is None:
        text = f"has a layer speedup of {one.speed:.2f} (layers counted, no time measured)"
        return Clause(one.setting, "layers", Interval(one.speed, one.speed, one.speed), text)
    if one.quartiles is None:
        text = f"has {one.speed:.2f} times the decode speed of the full model, of a spread that is not known"
        return Clause(one.setting, "unclear speed", Interval(one.speed, one.speed, one.speed), text, one.batch)
    value = Interval(one.speed, *one.quartiles)
    if value.low > 1:
        times, quartiles = value.text().split(" ", 1)
        text = f"decodes {times} times as fast as the full model {quartiles}"
        return Clause(one.setting, "faster", value, text, one.batch)
    if value.high < 1:
        text = f"is slower than the full model ({value.text()} times its speed)"
        return Clause(one.setting, "slower", value, text, one.batch)
    text = f"is neither measurably faster nor slower than the full model ({value.text()} times its speed)"
    return Clause(one.setting, "as fast", value, text, one.batch)


def loss_clause(one: Standing, quality: str) -> Clause:
    """What a setting loses, as far as its interval carries it."""
    assert one.loss is not None
    lost, label = one.loss, label_of(quality)
    form = FIGURES[quality].form
    if lost.low > 0:
        return Clause(one.setting, "loses", lost, f"loses {lost.text(form)} of {label}")
    if lost.high < 0:
        gained = Interval(-lost.value, -lost.high, -lost.low)
        return Clause(one.setting, "gains", lost, f"gains {gained.text(form)} of {label}")
    return Clause(one.setting, "no loss", lost, f"shows no measurable loss of {label} (loss {lost.text(form)})")


def _figures(
    rows: Sequence[Row], summary: Sequence[Row], quality: str | None, pick: Standing | None
) -> dict[str, float]:
    if pick is None:
        return {}
    own = [row for row in rows if Setting.of(row) == pick.setting]
    found = {
        f"decode_speedup_batch{row['batch_size']}": row["decode_speedup"] for row in own if "decode_speedup" in row
    }
    over_seeds = next(row for row in summary if Setting.of(row) == pick.setting)
    wanted = ["layer_speedup", *([quality, f"{quality}_from_full"] if quality else [])]
    found |= {name: over_seeds[name] for name in wanted if name in over_seeds}
    return {f"headline/{name}": float(value) for name, value in found.items()}


def _most_lost(one: Standing) -> float:
    assert one.loss is not None
    return one.loss.high


def _same(one: Standing, other: Standing | None) -> bool:
    return one is not other and other is not None and one.setting == other.setting


def _where(batch: int | None) -> str:
    return "" if batch is None else f"At batch {batch}, "


def _number(value: float) -> str:
    return f"{value:.2g}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
