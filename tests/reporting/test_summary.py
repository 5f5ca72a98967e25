"""Settings averaged over seeds, and compared with others of the same budget."""

from dataclasses import replace

import pytest

from skiplab.data.module import Item, TextData
from skiplab.data.restaurants import Restaurants
from skiplab.evaluation.generate import Generation, quality
from skiplab.evaluation.metric import Metric, TextMetric, quality_figure
from skiplab.evaluation.metrics import BUILT_IN
from skiplab.reporting.record import Entry, Record, Setting
from skiplab.reporting.summary import summarise
from skiplab.reporting.vocabulary import FIGURES


def record(
    method: str, setting: str, seed: int, scores: list[float], bleu: float = 50.0, trained: bool = True
) -> Record:
    return Record(
        entry=Entry(method, setting, seed),
        series=method,
        chosen=0,
        trained=trained,
        timed=True,
        figures={"bleu": bleu, "layer_speedup": 2.0 + seed},
        outputs=Generation([], [], []),
        item_scores={"rouge_l": scores, "agreement": [1.0] * len(scores)},
    )


SKIP = [record("skipdecode", "2x", seed, [0.5, 0.6, 0.7], bleu=50.0 + seed) for seed in (0, 1, 2)]


def test_a_setting_has_one_row_for_all_its_seeds() -> None:
    (row,) = summarise(SKIP, {})
    assert (row["method"], row["setting"], row["seeds"]) == ("skipdecode", "2x", [0, 1, 2])
    assert row["layer_speedup"] == 3.0
    assert row["bleu"] == 51.0
    assert row["bleu_seeds"] == [50.0, 52.0]
    assert row["rouge_l"] == pytest.approx(0.6)
    low, high = row["rouge_l_ci95"]
    assert 0.5 <= low < 0.6 < high <= 0.7
    assert "against" not in row


def test_the_difference_is_paired_by_seed_and_item() -> None:
    other = [record("early_termination", "2x", seed, [0.4, 0.5, 0.6]) for seed in (1, 2, 3)]
    row = summarise([*SKIP, *other], {Setting("early_termination", "2x"): Setting("skipdecode", "2x")})[1]
    assert row["against"] == "skipdecode 2x"
    assert row["rouge_l_difference"] == pytest.approx(-0.1)
    assert row["rouge_l_difference_ci95"] == pytest.approx([-0.1, -0.1])
    assert row["agreement_difference"] == 0
    assert row["agreement_p_value"] == 1


def test_an_untrained_setting_is_paired_with_all_seeds_of_its_rival() -> None:
    row = summarise(
        [*SKIP, record("d3", "2x", 0, [0.2, 0.3, 0.4], trained=False)],
        {Setting("d3", "2x"): Setting("skipdecode", "2x")},
    )[1]
    assert row["seeds"] == [0]
    assert row["rouge_l_difference"] == pytest.approx(-0.3)


def test_a_rival_that_failed_leaves_the_row_without_a_difference() -> None:
    (row,) = summarise([record("d3", "2x", 0, [0.2, 0.3])], {Setting("d3", "2x"): Setting("skipdecode", "2x")})
    assert "against" not in row


def test_a_single_finished_seed_of_a_rival_is_paired_with_that_seed() -> None:
    other = [record("early_termination", "2x", seed, [0.4 + seed, 0.5, 0.6]) for seed in (0, 1, 2)]
    row = summarise([SKIP[1], *other], {Setting("early_termination", "2x"): Setting("skipdecode", "2x")})[1]
    assert row["rouge_l_difference"] == pytest.approx((0.9 - 0.1 - 0.1) / 3)


def test_rows_and_summary_have_the_same_intervals_for_one_seed() -> None:
    """With one seed, both are computed from the same scores by the same function."""
    data = TextData(Restaurants(train_size=4, valid_size=2, test_size=30), batch_size=4, max_new_tokens=40)
    items: list[Item] = data.items("test")
    # Every third output is correct, the others end after a few words.
    texts = [
        item.references[0] if place % 3 == 0 else " ".join(item.references[0].split()[: place % 7 + 1])
        for place, item in enumerate(items)
    ]
    own, full = (Generation(texts, [[place % step, 1] for place in range(30)], [[4]] * 30) for step in (2, 3))
    named = [figure for figure in FIGURES if figure.interval == "items" and figure.name not in ("test_loss", *ROUGES)]
    # Substitutes for scores that need an encoder or a model.
    others: list[Metric] = [
        TextMetric(quality_figure(figure.name, "stands in"), lambda text, _: len(text) % 10 / 10)
        for figure in named
        if figure.name != "agreement"
    ]
    row, by_item = quality(own, items, full, [*BUILT_IN, *others])
    row |= {"test_loss": 0.2, "test_loss_ci95": [0.1, 0.3]}
    one = replace(record("skipdecode", "2x", 0, []), figures=row, item_scores=by_item)
    (summary,) = summarise([one], {})
    figures = [figure.name for figure in FIGURES if figure.interval in ("items", "corpus")]
    assert {"bleu", "rouge_l", "slot_accuracy", "bertscore_f1", "agreement", "test_loss"} <= set(figures)
    for name in figures:
        assert summary[name] == pytest.approx(row[name], rel=1e-12)
        assert summary[f"{name}_ci95"] == row[f"{name}_ci95"]
        low, high = row[f"{name}_ci95"]
        assert low < high


ROUGES = ("rouge_1", "rouge_2", "rouge_l")
