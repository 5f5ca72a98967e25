"""Quality of generated text, per item where the metric allows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from types import MappingProxyType
from typing import NamedTuple, final

from skiplab.evaluation.metric import EVERYWHERE, Measured, Metric, Outputs, quality_figure, with_text
from skiplab.evaluation.rouge_tokens import ROUGE_TOKENIZER, rouge_tokens
from skiplab.utils.figures import Figure, Shown

Interval = tuple[float, float]
ROUGES = MappingProxyType({"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"})
"""Our names of ROUGE's variants, and torchmetrics'."""
ROUGE_SIGNATURE = f"case:lc|stem:no|refs:best|tok:{ROUGE_TOKENIZER}"
"""How ROUGE is computed, in the manner of sacrebleu's signatures."""


class Bleu(NamedTuple):
    """Corpus BLEU, its interval, and sacrebleu's signature of how it was computed."""

    score: float
    interval: Interval
    signature: str


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """Corpus BLEU (sacrebleu's default: 13a tokenizer, 0 to 100) and its bootstrap interval.

    Args:
        references: one or more per output; their number may differ. Empty ones do not count.
    """
    from sacrebleu.metrics.bleu import BLEU

    streams = list(zip_longest(*map(with_text, references)))
    # `force` only silences a warning about texts that look tokenized, as those of a word vocabulary do.
    metric = BLEU(force=True)
    score = metric.corpus_score(list(outputs), streams, n_bootstrap=1000)  # type: ignore[arg-type]
    interval = (score._mean - score._ci, score._mean + score._ci)
    return Bleu(score.score, interval, str(metric.get_signature()))


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """ROUGE-1, -2 and -L F1 of each output, each against its best reference, in [0, 1].

    Words are those of `rouge_tokens`, not stemmed: on ASCII text the scores are rouge_score's.
    """
    from torchmetrics.functional.text import rouge_score

    keys = tuple(ROUGES.values())
    scored = [
        rouge_score(
            output, [with_text(refs)], accumulate="best", rouge_keys=keys, normalizer=str, tokenizer=rouge_tokens
        )
        for output, refs in zip(outputs, references, strict=True)
    ]
    return {name: [float(scores[f"{key}_fmeasure"]) for scores in scored] for name, key in ROUGES.items()}


def rouge_l(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Only ROUGE-L, as in `rouge`."""
    return rouge(outputs, references)["rouge_l"]


def agreement(tokens: Sequence[Sequence[int]], full_tokens: Sequence[Sequence[int]]) -> list[float]:
    """Share of positions at which an output has the full model's token, over the longer of the two."""
    return [
        sum(a == b for a, b in zip(own, full, strict=False)) / max(len(own), len(full))
        for own, full in zip(tokens, full_tokens, strict=True)
    ]


@final
@dataclass(frozen=True)
class CorpusBleu(Metric):
    """`bleu` of all outputs."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (
            Figure(
                name="bleu",
                meaning="corpus BLEU, sacrebleu, 0 to 100",
                label="BLEU",
                form="{:.1f}",
                sense="maximize",
                interval="corpus",
                # BLEU is customary for data-to-text tasks; other tasks use ROUGE.
                shown=(
                    Shown(place="console", yields_to=tuple(ROUGES)),
                    Shown(place="quality"),
                    Shown(place="plot"),
                ),
                over_seeds="mean",
            ),
            Figure(name="bleu_signature", meaning="sacrebleu's signature of how BLEU was computed"),
        )

    def measure(self, outputs: Outputs) -> Measured:
        found = bleu(outputs.texts, outputs.references)
        row = {"bleu": found.score, "bleu_ci95": list(found.interval), "bleu_signature": found.signature}
        return Measured(row=row)


@final
@dataclass(frozen=True)
class Rouge(Metric):
    """`rouge` of each output: three figures of one pass over the words."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        # Where a task's slots are scored, ROUGE-L stands for the three.
        aside = (Shown(place="console", yields_to=("slot_accuracy",)),)
        shown = (*aside, Shown(place="quality", yields_to=("slot_accuracy",)))
        best = "F1 against the best reference, words not stemmed, 0 to 1, mean over items"
        return (
            quality_figure("rouge_1", f"ROUGE-1 {best}", label="ROUGE-1", shown=shown),
            quality_figure("rouge_2", "ROUGE-2 F1 likewise", label="ROUGE-2", shown=shown),
            quality_figure("rouge_l", "ROUGE-L F1 likewise", label="ROUGE-L", shown=(*aside, *EVERYWHERE)),
            Figure(name="rouge_signature", meaning="how ROUGE was computed"),
        )

    def measure(self, outputs: Outputs) -> Measured:
        return Measured(rouge(outputs.texts, outputs.references), {"rouge_signature": ROUGE_SIGNATURE})


@final
@dataclass(frozen=True)
class Agreement(Metric):
    """`agreement` of each output with the full model's."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        meaning = "share of tokens equal to the full model's, 0 to 1, mean over items"
        shown = (Shown(place="quality"), Shown(place="difference"), Shown(place="throughput", position=10))
        return (quality_figure("agreement", meaning, shown=shown),)

    def measure(self, outputs: Outputs) -> Measured:
        return Measured({"agreement": agreement(outputs.tokens, outputs.full_tokens)})


BLEU, ROUGE, AGREEMENT = CorpusBleu(), Rouge(), Agreement()
BUILT_IN: tuple[Metric, ...] = (BLEU, ROUGE, AGREEMENT)
"""The metrics of every comparison."""
