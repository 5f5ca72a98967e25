"""The registry of figures."""

import pytest

from skiplab.reporting.vocabulary import FIGURES
from skiplab.utils.figures import Column, Figure, Figures, Shown


def registry(*figures: Figure) -> Figures:
    found = Figures()
    for figure in figures:
        found.register(figure)
    return found


SCORE = Figure(name="score", meaning="a score", sense="maximize", interval="items", shown=(Shown(place="quality"),))
TIME = Figure(
    name="step_time",
    meaning="a time",
    form="{:.1f}",
    scale=1e3,
    interval="quartiles",
    shown=(Shown(place="speed", label="time in ms"), Shown(place="throughput", form="{:.3f}", scale=1.0)),
)


def test_figures_are_found_by_name_and_keep_their_order() -> None:
    figures = registry(TIME, SCORE)
    assert [figure.name for figure in figures] == ["step_time", "score"]
    assert figures["score"] is SCORE
    assert "score" in figures
    assert len(figures) == 2
    assert len(registry(SCORE, SCORE)) == 1, "adding it again changes nothing"


def test_unknown_names_are_refused_with_the_closest_known_name() -> None:
    with pytest.raises(ValueError, match=r"unknown figure 'rogue_l'; did you mean rouge_l\?"):
        FIGURES["rogue_l"]
    with pytest.raises(ValueError, match=r"unknown figure 'xyz'$"):
        FIGURES["xyz"]


@pytest.mark.parametrize("name", ["score", "score_ci95", "score_difference", "step_time_quartiles"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} is taken by"):
        registry(SCORE, TIME).register(Figure(name=name, meaning="another"))


def test_invalid_names_and_senses_are_refused() -> None:
    with pytest.raises(ValueError, match="letters, digits and underscores, such as rouge_l; got 'exact match'"):
        Figure(name="exact match", meaning="")
    with pytest.raises(ValueError, match="sense of figure x must be minimize, maximize or None, got 'up'"):
        Figure(name="x", meaning="", sense="up")  # type: ignore[arg-type]


def test_a_place_may_have_its_own_label_and_format() -> None:
    assert TIME.at("speed") == Column("time in ms", "{:.1f}", 1e3)
    assert TIME.at("speed").text(0.0125) == "12.5"
    assert TIME.at("throughput") == Column("step time", "{:.3f}", 1.0)
    with pytest.raises(KeyError, match="step_time is not shown at quality"):
        TIME.at("quality")


def test_the_interval_determines_the_keys() -> None:
    assert set(TIME.row_keys) == set(TIME.summary_keys) == {"step_time", "step_time_quartiles"}
    assert set(SCORE.row_keys) == {"score", "score_ci95"}
    more = {
        "score_difference", "score_difference_ci95", "score_p_value", "score_from_full", "score_from_full_ci95",
    }  # fmt: skip
    assert set(SCORE.summary_keys) == {"score", "score_ci95"} | more
    corpus = Figure(name="corpus", meaning="", interval="corpus")
    assert set(corpus.summary_keys) == {"corpus", "corpus_ci95", "corpus_seeds"}
    assert Figure(name="seeds", meaning="", part="summary").row_keys == {}
    assert Figure(name="loss", meaning="", part="trial").summary_keys == {}


def test_a_place_is_ordered_by_position_and_omits_figures_that_yield() -> None:
    def figure(name: str, position: int = 0, yields_to: tuple[str, ...] = ()) -> Figure:
        return Figure(name=name, meaning="", shown=(Shown(place="console", position=position, yields_to=yields_to),))

    figures = registry(figure("bleu", yields_to=("rouge",)), figure("rouge", yields_to=("slots",)), figure("slots", -1))
    assert names(figures, "bleu", "rouge", "slots") == ["slots", "bleu"], "rouge yields to slots, so bleu is shown"
    assert names(figures, "bleu", "rouge") == ["rouge"]
    assert names(figures, "bleu") == ["bleu"]
    assert figures.shown("plot", ["bleu"]) == []


def names(figures: Figures, *present: str) -> list[str]:
    return [figure.name for figure in figures.shown("console", present)]


def test_every_built_in_figure_has_a_meaning_and_formats_numbers() -> None:
    for figure in FIGURES:
        assert figure.meaning
        for shown in figure.shown:
            assert figure.at(shown.place).text(0.5)
        for other in (name for shown in figure.shown for name in shown.yields_to):
            assert other in FIGURES
