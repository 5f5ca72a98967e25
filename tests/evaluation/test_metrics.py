"""Quality metrics."""

import pytest

from skiplab.evaluation.metrics import agreement, bleu, rouge, rouge_l


def test_bleu_of_perfect_outputs_and_its_interval() -> None:
    references = [["the cat sat on the mat", "a cat sat"], ["it is a dog and it barks"]]
    score, (low, high), signature = bleu(["the cat sat on the mat", "it is a dog and it barks"], references)
    assert score == pytest.approx(100)
    assert signature.startswith("nrefs:var|bs:1000|seed:")
    assert "|case:mixed|eff:no|tok:13a|smooth:exp|version:" in signature
    assert (low, high) == (pytest.approx(100), pytest.approx(100))


def test_bleu_interval_holds_the_score() -> None:
    texts = [f"the {word} sat on the mat near the door" for word in ("cat", "dog", "cow", "hen", "fox", "owl")]
    outputs = [text if index % 2 else text.replace("sat on", "was near") for index, text in enumerate(texts)]
    score, (low, high), _ = bleu(outputs, [[text] for text in texts])
    assert low < score < high < 100


def test_rouge_l_takes_the_best_reference() -> None:
    # LCS of 3 words: precision 3/4, recall 3/5.
    assert rouge_l(["a b c d"], [["x y", "a b z c e"]]) == pytest.approx([2 * 0.75 * 0.6 / 1.35])


def test_every_rouge_takes_its_own_best_reference() -> None:
    # The first reference shares all words but no bigram, the second one of its two bigrams.
    scores = rouge(["a b c d", "No!"], [["d c b a", "a b x"], ["yes", "no"]])
    assert scores["rouge_1"] == pytest.approx([1.0, 1.0])
    assert scores["rouge_2"] == pytest.approx([2 * (1 / 3) * (1 / 2) / (5 / 6), 0.0])
    assert scores["rouge_l"] == pytest.approx([2 * (2 / 4) * (2 / 3) / (7 / 6), 1.0])


def test_blank_references_do_not_count() -> None:
    assert rouge_l(["."], [["", "a pub"]]) == [0]
    outputs = ["it is a pub near the river", "a cafe that is cheap"]
    with_blanks = bleu(outputs, [[outputs[0], ""], [" ", outputs[1]]])
    assert with_blanks.score == pytest.approx(100)
    with pytest.raises(ValueError, match="needs a reference that is not empty"):
        bleu(outputs, [[outputs[0]], [""]])


def test_agreement_counts_over_the_longer_output() -> None:
    assert agreement([[1, 2, 3], [1, 9]], [[1, 2, 3], [1, 2, 3, 4]]) == [1.0, 0.25]
