"""The E2E challenge's scores; expected values are from its own scorer, e2e-metrics, on the same texts."""

import pytest

from skiplab.evaluation.e2e_scores import E2E_SCORES, cider, coco_rouge_l, e2e_bleu, nist
from skiplab.evaluation.metric import Outputs
from skiplab.evaluation.metrics import bleu

OUTPUTS = [
    "The Golden Fox is a Pub near the River.",
    "the Blue Bell doesn't serve Cheap food in the City Centre, it's £20-25.",
    "The Wild Oak is a family-friendly coffee shop.",
]
REFERENCES = [
    ["The Golden Fox is a pub near the river.", "Near the river is a pub, The Golden Fox."],
    ["The Blue Bell does not serve cheap food in the city centre; it costs £20-25."],
    [
        "Wild Oak, a coffee shop, is family-friendly and cheap.",
        "The Wild Oak is a child-friendly coffee shop near the bridge.",
        "A coffee shop: The Wild Oak.",
    ],
]


def test_scores_are_those_of_the_challenges_scorer() -> None:
    assert e2e_bleu(OUTPUTS, REFERENCES) == pytest.approx(67.21168693)
    assert nist(OUTPUTS, REFERENCES) == pytest.approx(5.100216618)
    assert coco_rouge_l(OUTPUTS, REFERENCES) == pytest.approx([1.0, 0.875, 0.716442953])
    assert cider(OUTPUTS, REFERENCES) == pytest.approx([7.6371443987, 6.5351237092, 3.7663635917])


def test_the_challenges_bleu_ignores_case_and_sacrebleu_does_not() -> None:
    assert e2e_bleu(OUTPUTS[:1], REFERENCES[:1]) == pytest.approx(100)
    assert bleu(OUTPUTS[:1], REFERENCES[:1]).score < 50


def test_the_metric_skips_blank_references_repairs_pound_signs_and_names_the_scorer() -> None:
    broken = [[*texts, " "] for texts in REFERENCES]
    broken[1][0] = broken[1][0].replace("£", "Â£")
    row = E2E_SCORES.measure(Outputs([""] * 3, broken, OUTPUTS, [], [])).row
    assert row["e2e_bleu"] == pytest.approx(67.21168693)
    assert row["e2e_nist"] == pytest.approx(5.100216618)
    assert row["e2e_rouge_l"] == pytest.approx(0.863814318)
    assert row["e2e_cider"] == pytest.approx(5.9795439)
    assert row["e2e_signature"].startswith("e2e-metrics")
    assert set(row) == {figure.name for figure in E2E_SCORES.figures}


def test_outputs_without_words_score_zero() -> None:
    assert nist([""], [["a pub"]]) == 0
    assert coco_rouge_l(["", "."], [["a pub"], ["a pub"]]) == [0, 0]
    assert cider(["", "a pub"], [["a pub"], ["an inn"]])[0] == 0
