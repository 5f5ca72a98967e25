"""Quality of generated text, per item where the metric allows it, with 95% intervals over items."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

Interval = tuple[float, float]
ROUGES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Our names of ROUGE's variants, and torchmetrics'."""


class Bleu(NamedTuple):
    """Corpus BLEU, its interval, and sacrebleu's signature of how it was computed."""

    score: float
    interval: Interval
    signature: str


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """Corpus BLEU (sacrebleu's default: 13a tokenizer, 0 to 100) and its bootstrap interval.

    Args:
        references: one or more per output; their number may differ.
    """
    from sacrebleu.metrics.bleu import BLEU

    streams = list(zip_longest(*references))
    # `force` only silences a warning about texts that look tokenized, as those of a word vocabulary do.
    metric = BLEU(force=True)
    score = metric.corpus_score(list(outputs), streams, n_bootstrap=1000)  # type: ignore[arg-type]
    interval = (score._mean - score._ci, score._mean + score._ci)
    return Bleu(score.score, interval, str(metric.get_signature()))


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """ROUGE-1, -2 and -L F1 of each output, each against its best reference, in [0, 1]; words are not stemmed."""
    from torchmetrics.functional.text import rouge_score

    keys = tuple(ROUGES.values())
    scored = [
        rouge_score(output, [list(refs)], accumulate="best", rouge_keys=keys)
        for output, refs in zip(outputs, references, strict=True)
    ]
    return {name: [float(scores[f"{key}_fmeasure"]) for scores in scored] for name, key in ROUGES.items()}


def rouge_l(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L alone, as in `rouge`."""
    return rouge(outputs, references)["rouge_l"]


def agreement(tokens: Sequence[Sequence[int]], full_tokens: Sequence[Sequence[int]]) -> list[float]:
    """Share of positions at which an output has the full model's token, over the longer of the two."""
    return [
        sum(a == b for a, b in zip(own, full, strict=False)) / max(len(own), len(full))
        for own, full in zip(tokens, full_tokens, strict=True)
    ]


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Bootstrap 95% interval of the mean of item scores; None for fewer than two items."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(values) < 2:
        return None
    found = bootstrap((np.asarray(values),), np.mean, n_resamples=2000, method="percentile", rng=seed)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
