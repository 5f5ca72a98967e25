"""Settings over their seeds, against their rivals."""

import pytest

from skiplab.evaluation.generate import Generation
from skiplab.reporting.record import Entry, Record, Setting
from skiplab.reporting.summary import summarise


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


def test_a_setting_is_one_row_over_its_seeds() -> None:
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


def test_an_untrained_setting_meets_all_seeds_of_its_rival() -> None:
    row = summarise(
        [*SKIP, record("d3", "2x", 0, [0.2, 0.3, 0.4], trained=False)],
        {Setting("d3", "2x"): Setting("skipdecode", "2x")},
    )[1]
    assert row["seeds"] == [0]
    assert row["rouge_l_difference"] == pytest.approx(-0.3)


def test_a_rival_that_failed_leaves_the_row_without_a_difference() -> None:
    (row,) = summarise([record("d3", "2x", 0, [0.2, 0.3])], {Setting("d3", "2x"): Setting("skipdecode", "2x")})
    assert "against" not in row


def test_the_one_seed_that_a_rival_has_left_is_paired_with_that_seed_alone() -> None:
    other = [record("early_termination", "2x", seed, [0.4 + seed, 0.5, 0.6]) for seed in (0, 1, 2)]
    row = summarise([SKIP[1], *other], {Setting("early_termination", "2x"): Setting("skipdecode", "2x")})[1]
    assert row["rouge_l_difference"] == pytest.approx((0.9 - 0.1 - 0.1) / 3)
