"""Sentences: no relation that the rows do not hold."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skiplab.reporting.headline import Clause, Headline, headline
from skiplab.reporting.record import Setting
from skiplab.reporting.results import Row
from skiplab.reporting.standings import MARGIN

METHODS = ("skipdecode", "calm", "multi_layer", "d3", "unified")
BATCHES = (1, 8, 32)
WORDS = {
    "faster": "times as fast as the full model",
    "slower": "is slower than the full model",
    "as fast": "neither measurably faster nor slower",
    "unclear speed": "of a spread that is not known",
    "layers": "layer speedup",
    "loses": "loses",
    "gains": "gains",
    "no loss": "no measurable loss",
}
bounded = st.floats(-0.3, 0.3).map(lambda value: round(value, 4))
speeds = st.floats(0.3, 5).map(lambda value: round(value, 3))


@st.composite
def interval(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[float, float, float]:
    low, value, high = sorted(draw(st.tuples(values, values, values)))
    return low, value, high


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[list[Row], list[Row]]:
    """Rows and summary of some settings, with or without timing, quality and rivals."""
    batches = draw(st.lists(st.sampled_from(BATCHES), unique=True))
    names = draw(st.lists(st.tuples(st.sampled_from(METHODS), st.sampled_from("abc")), unique=True, max_size=9))
    judged = draw(st.booleans())
    rows: list[Row] = [{"method": "full", "setting": "1x", "seed": 0, "batch_size": size, "decode_speedup": 1.0,
                        "decode_speedup_quartiles": [1.0, 1.0]} for size in batches]  # fmt: skip
    summary: list[Row] = [{"method": "full", "setting": "1x", "seeds": [0], "slot_accuracy": 0.9}]
    for number, (method, setting) in enumerate(names):
        label = {"method": method, "setting": setting}
        row: Row = {**label, "seeds": [0], "mean_depth": number + 1.0, "layer_speedup": draw(speeds)}
        if judged and draw(st.integers(0, 9)):
            low, value, high = draw(interval(bounded))
            row |= {"slot_accuracy_from_full": value, "slot_accuracy_from_full_ci95": [low, high]}
        if draw(st.booleans()):
            low, value, high = draw(interval(bounded))
            row |= {"against": "skipdecode a", "slot_accuracy_difference": value}
            row |= {"slot_accuracy_difference_ci95": [low, high], "slot_accuracy_p_value": draw(st.floats(0, 0.2))}
        summary.append(row)
        for size in batches:
            low, value, high = draw(interval(speeds))
            timed = {**label, "seed": 0, "batch_size": size, "decode_speedup": value}
            rows.append(timed | ({"decode_speedup_quartiles": [low, high]} if draw(st.integers(0, 9)) else {}))
    return rows, summary


def holds(clause: Clause, rows: list[Row], summary: list[Row]) -> bool:
    """Whether the rows hold what a clause states."""
    row = next(row for row in summary if Setting.of(row) == clause.setting)
    if clause.verb == "layers":
        return clause.value.value == row["layer_speedup"]
    if clause.verb in ("loses", "gains", "no loss"):
        low, high = row["slot_accuracy_from_full_ci95"]
        return {"loses": high < 0, "gains": low > 0, "no loss": low <= 0 <= high}[clause.verb]
    timed = next(row for row in rows if Setting.of(row) == clause.setting and row["batch_size"] == clause.batch)
    quartiles = timed.get("decode_speedup_quartiles")
    if quartiles is None:
        return clause.verb == "unclear speed"
    low, high = quartiles
    return {"faster": low > 1, "slower": high < 1, "as fast": low <= 1 <= high, "unclear speed": False}[clause.verb]


@settings(max_examples=300, deadline=None)
@given(comparisons())
def test_every_relation_that_a_sentence_states_holds_in_the_rows(found: tuple[list[Row], list[Row]]) -> None:
    rows, summary = found
    said = headline(rows, summary)
    assert len(said.sentences) <= 5
    for sentence in said.sentences:
        text = str(sentence)
        assert text[0].isupper() or text.startswith(METHODS)
        assert text.endswith(".")
        for clause in sentence.clauses:
            assert holds(clause, rows, summary), text
            assert WORDS[clause.verb] in clause.text
            assert clause.text in text


@settings(max_examples=300, deadline=None)
@given(comparisons())
def test_the_setting_that_is_named_first_is_the_fastest_that_loses_little(found: tuple[list[Row], list[Row]]) -> None:
    rows, summary = found
    batches = [row["batch_size"] for row in rows]
    said = headline(rows, summary)

    def speed(row: Row) -> float:
        if not batches:
            return row["layer_speedup"]
        own = [one for one in rows if Setting.of(one) == Setting.of(row) and one["batch_size"] == max(batches)]
        return own[0]["decode_speedup"]

    judged = [row for row in summary if "slot_accuracy_from_full" in row]
    little = [row for row in judged if -row["slot_accuracy_from_full_ci95"][0] <= MARGIN]
    if judged:
        first = str(said.sentences[0])
        assert ("o setting is shown to lose at most" in first) == (not little)
    if little:
        clause = said.sentences[0].clauses[0]
        assert clause.value.value == max(map(speed, little))
        named = next(row for row in summary if Setting.of(row) == clause.setting)
        assert said.figures["headline/slot_accuracy_from_full"] == named["slot_accuracy_from_full"]
    else:
        assert said.figures == {}


@settings(max_examples=200, deadline=None)
@given(comparisons())
def test_settings_are_counted_by_interval_and_p_value(
    found: tuple[list[Row], list[Row]],
) -> None:
    rows, summary = found
    texts = [str(sentence) for sentence in headline(rows, summary).sentences]
    judged = any("slot_accuracy_from_full" in row for row in summary)
    compared = [row for row in summary if "against" in row]
    counted = [
        match
        for text in texts
        if (match := re.search(r"worse in (\d+) of (\d+) .* better in (\d+), .* in (\d+)", text))
    ]
    assert len(counted) == bool(judged and compared)
    for match in counted:
        means = [
            row["slot_accuracy_difference"]
            for row in compared
            if row["slot_accuracy_p_value"] < 0.05
            and min(row["slot_accuracy_difference_ci95"]) * max(row["slot_accuracy_difference_ci95"]) > 0
        ]
        better = sum(mean > 0 for mean in means)
        counts = [len(means) - better, len(compared), better, len(compared) - len(means)]
        assert [int(one) for one in match.groups()] == counts


FULL: Row = {"method": "full", "setting": "1x", "seeds": [0], "slot_accuracy": 0.9, "mean_depth": 12.0}


def setting(name: str, loss: tuple[float, float, float], speed: float, **more: object) -> tuple[Row, Row]:
    """A summary row and a timed row of SkipDecode."""
    value, low, high = loss
    label = {"method": "skipdecode", "setting": name}
    judged = {"slot_accuracy_from_full": -value, "slot_accuracy_from_full_ci95": [-high, -low], "seeds": [0]}
    timed = {
        "seed": 0,
        "batch_size": 32,
        "decode_speedup": speed,
        "decode_speedup_quartiles": [speed - 0.1, speed + 0.1],
    }
    return {
        **label,
        **judged,
        "slot_accuracy": 0.9 - value,
        "mean_depth": 12 / speed,
        "layer_speedup": speed,
        **more,
    }, {**label, **timed}


def said_of(*made: tuple[Row, Row]) -> Headline:
    summary, rows = zip(*made, strict=True)
    return headline(rows, [FULL, *summary])


def test_a_setting_is_described_with_its_intervals() -> None:
    found = said_of(setting("3x", (0.001, -0.002, 0.004), 2.9), setting("5x", (0.1, 0.08, 0.12), 4.0))
    assert [str(sentence) for sentence in found.sentences] == [
        "At batch 32, skipdecode 3x decodes 2.90 times as fast as the full model [2.80, 3.00] and shows no measurable "
        "loss of slot accuracy (loss 0.001 [-0.002, 0.004]); of the settings shown to lose at most 0.02, it is the "
        "fastest.",
        "The highest speed is that of skipdecode 5x, which decodes 4.00 times as fast as the full model [3.90, "
        "4.10] and loses 0.100 [0.080, 0.120] of slot accuracy.",
    ]
    assert found.figures["headline/decode_speedup_batch32"] == 2.9


def test_a_faster_setting_with_overlapping_quartiles_is_not_called_measurably_faster() -> None:
    little = (0.001, -0.002, 0.004)
    apart, near = setting("2x", little, 2.6), setting("4x", little, 2.75)
    first = str(said_of(setting("3x", little, 2.9), apart, near).sentences[0])
    assert first.endswith("it is the fastest, though one other is not measurably slower.")
    first = str(said_of(setting("3x", little, 2.9), apart, near, setting("5x", little, 2.8)).sentences[0])
    assert first.endswith("it is the fastest, though 2 others are not measurably slower.")


def test_a_loss_that_may_exceed_the_margin_is_not_called_little() -> None:
    """The mean loss is below the margin, and the end of its interval is not."""
    (first, second) = said_of(setting("3x", (0.01, -0.01, 0.03), 2.9), setting("2x", (0.0, 0.0, 0.01), 1.5)).sentences
    assert str(first).startswith("At batch 32, skipdecode 2x decodes 1.50")
    assert "skipdecode 3x, which decodes 2.90" in str(second)
    assert "no measurable loss of slot accuracy (loss 0.010 [-0.010, 0.030])" in str(second)


def test_without_a_setting_that_loses_little_the_closest_is_named() -> None:
    (sentence,) = said_of(setting("3x", (0.05, 0.04, 0.06), 0.95)).sentences
    assert str(sentence) == (
        "At batch 32, no setting is shown to lose at most 0.02 of slot accuracy; the closest, skipdecode 3x, is "
        "neither measurably faster nor slower than the full model (0.95 [0.85, 1.05] times its speed) and loses "
        "0.050 [0.040, 0.060] of slot accuracy."
    )


def test_one_decoder_under_two_names_is_one_candidate() -> None:
    slow, (faster, timed) = setting("3x", (0.0, 0.0, 0.0), 2.9), setting("calibrated delta=0.02", (0.0, 0.0, 0.0), 3.1)
    faster |= {"mean_depth": slow[0]["mean_depth"], "layer_speedup": slow[0]["layer_speedup"]}
    (sentence,) = said_of(slow, (faster, timed)).sentences
    assert "skipdecode 3x decodes 2.90" in str(sentence)


def test_no_loss_is_named_against_a_full_model_that_scores_nothing() -> None:
    summary, row = setting("3x", (0.0, 0.0, 0.0), 2.9)
    found = headline([row], [{**FULL, "slot_accuracy": 0.0}, summary])
    assert [str(sentence) for sentence in found.sentences] == [
        "The full model's slot accuracy is 0.000: a loss against it would say nothing.",
        "At batch 32, skipdecode 3x decodes 2.90 times as fast as the full model [2.80, 3.00], the highest of all "
        "settings.",
    ]


@pytest.mark.parametrize("rows", [[], [FULL]])
def test_with_nothing_to_compare_nothing_is_said(rows: list[Row]) -> None:
    assert headline([], rows).sentences == ()
