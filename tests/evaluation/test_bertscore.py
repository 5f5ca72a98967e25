"""BERTScore with a local encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from skiplab.data.tokenizers import word_tokenizer
from skiplab.evaluation.bertscore import BERTScore, f1

TEXTS = ["a pub by the river", "cheap food", "the pub"]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A tiny random BERT."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(["a", "pub", "by", "the", "river", "cheap", "food"])
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_text_is_most_similar_to_itself(encoder: Path) -> None:
    metric = BERTScore(str(encoder))
    assert metric.scores(TEXTS, [[text] for text in TEXTS]) == pytest.approx([1.0] * 3, abs=1e-5)
    others = metric.scores(TEXTS, [[TEXTS[1]], [TEXTS[2]], [TEXTS[0]]])
    assert max(others) < 0.999


def test_the_best_reference_counts_and_an_empty_output_scores_zero(encoder: Path) -> None:
    metric = BERTScore(str(encoder))
    several = metric.scores([TEXTS[0], " ", TEXTS[2]], [[TEXTS[1], TEXTS[0]], TEXTS, TEXTS[:2]])
    alone = [metric.scores([TEXTS[2]], [[reference]])[0] for reference in TEXTS[:2]]
    assert several == pytest.approx([1.0, 0.0, max(alone)], abs=1e-5)


def test_scores_do_not_depend_on_the_other_outputs(encoder: Path) -> None:
    metric = BERTScore(str(encoder))
    outputs, references = [*TEXTS] * 7, [[text] for text in [*TEXTS[1:], TEXTS[0]]] * 7
    alone = [metric.scores([o], [r])[0] for o, r in zip(outputs[:3], references[:3], strict=True)]
    assert metric.scores(outputs, references) == pytest.approx(alone * 7, abs=1e-5)


def test_an_encoder_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the encoder of bertscore=.* or bertscore=null"):
        BERTScore(str(tmp_path)).check()


def test_f1_by_hand() -> None:
    output, reference = torch.eye(3)[[0, 1]], torch.eye(3)[[0, 2, 2]]
    # One of two output tokens is in the reference, one of three reference tokens in the output.
    assert f1(output, reference) == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert f1(output, output) == 1.0
    assert f1(output[:0], reference) == 0.0
