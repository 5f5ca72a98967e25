"""The scores of the E2E NLG challenge (Dusek et al., arXiv 1901.07931), equal to those of its scorer, e2e-metrics.

BLEU is sacrebleu's without case. NIST follows mteval-v13a (Doddington, 2002); ROUGE-L and CIDEr follow COCO's caption
evaluation (Chen et al., arXiv 1504.00325; Vedantam et al., arXiv 1411.5726). METEOR needs Java and is left out.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from types import MappingProxyType
from typing import final

from skiplab.evaluation.metric import Measured, Metric, Outputs, with_text
from skiplab.evaluation.ptb_tokens import ptb_tokens
from skiplab.utils.figures import Figure, Shown

Ngram = tuple[str, ...]
Texts = Sequence[str]
References = Sequence[Sequence[str]]

# Length penalty of NIST: one half at two thirds of the references' length.
_BETA = -math.log(0.5) / math.log(1.5) ** 2
# ROUGE-L weighs recall by this; CIDEr's penalty on the difference in length has this deviation.
_ROUGE_BETA, _CIDER_SIGMA = 1.2, 6.0
# Broken encodings in the challenge's files, which its scorer mends before it scores.
_MENDED = MappingProxyType({"Ł": "£", "Â£": "£", "Ã©": "é", "ã©": "é"})

SIGNATURE = (
    "e2e-metrics reimplemented: BLEU and NIST on mteval-13a tokens, ROUGE-L and CIDEr on Penn Treebank tokens without "
    "punctuation; case:lc"
)


def e2e_bleu(outputs: Texts, references: References) -> float:
    """Corpus BLEU of mteval-v13a without case, in [0, 100]."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(lowercase=True, force=True)
    return metric.corpus_score(list(outputs), list(zip_longest(*references))).score  # type: ignore[arg-type]


def nist(outputs: Texts, references: References, order: int = 5) -> float:
    """Corpus NIST of mteval-v13a without case: bits per matched n-gram, summed over orders; 0 is no match."""
    tokens = [_mteval_tokens(text) for text in outputs]
    reference_tokens = [[_mteval_tokens(text) for text in texts] for texts in references]
    seen = Counter(gram for texts in reference_tokens for text in texts for gram in _up_to(text, order))
    seen[()] = sum(len(text) for texts in reference_tokens for text in texts)
    total = 0.0
    for n in range(1, order + 1):
        information, count = 0.0, 0
        for own, texts in zip(tokens, reference_tokens, strict=True):
            count += max(0, len(own) - n + 1)
            matched = Counter(_ngrams(own, n)) & _merged([_ngrams(text, n) for text in texts])
            information += sum(hits * math.log2(seen[gram[:-1]] / seen[gram]) for gram, hits in matched.items())
        total += information / count if count else 0.0
    length = sum(sum(map(len, texts)) / len(texts) for texts in reference_tokens)
    return total * _nist_penalty(sum(map(len, tokens)), length)


def coco_rouge_l(outputs: Texts, references: References) -> list[float]:
    """ROUGE-L of each output in [0, 1]: the best precision and the best recall of any reference, recall weighing more.

    Higher than ROUGE-L against the best reference, because precision and recall may be of two references.
    """
    return [
        _rouge_l(ptb_tokens(output), [ptb_tokens(text) for text in texts])
        for output, texts in zip(outputs, references, strict=True)
    ]


def cider(outputs: Texts, references: References, order: int = 4) -> list[float]:
    """CIDEr-D of each output, in [0, 10]: cosine of n-gram counts weighted by rarity among the items' references."""
    tokens = [ptb_tokens(text) for text in outputs]
    reference_tokens = [[ptb_tokens(text) for text in texts] for texts in references]
    documents = Counter(
        gram for texts in reference_tokens for gram in {gram for text in texts for gram in _up_to(text, order)}
    )
    items = math.log(len(outputs))

    def weights(words: Sequence[str], n: int) -> dict[Ngram, float]:
        counts = Counter(_ngrams(words, n)).items()
        return {gram: count * (items - math.log(max(1, documents[gram]))) for gram, count in counts}

    def score(own: Sequence[str], texts: Sequence[Sequence[str]]) -> float:
        own_by_order = {n: weights(own, n) for n in range(1, order + 1)}
        total = 0.0
        for reference in texts:
            cosines = sum(_clipped_cosine(mine, weights(reference, n)) for n, mine in own_by_order.items())
            # The lengths that count are numbers of bigrams.
            difference = max(0, len(own) - 1) - max(0, len(reference) - 1)
            total += math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2)) * cosines / order
        return 10 * total / len(texts)

    return [score(own, texts) for own, texts in zip(tokens, reference_tokens, strict=True)]


@final
@dataclass(frozen=True)
class E2EScores(Metric):
    """The challenge's scores except METEOR, in addition to the metrics of every comparison."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        scorer = "as the E2E challenge's scorer has it"
        return (
            _figure("e2e_bleu", f"corpus BLEU without case, 0 to 100, {scorer}", "BLEU (E2E)", "{:.2f}"),
            _figure("e2e_nist", f"corpus NIST without case, {scorer}", "NIST (E2E)", "{:.2f}"),
            _figure("e2e_rouge_l", f"ROUGE-L, 0 to 1, mean over items, {scorer}", "ROUGE-L (E2E)", "{:.4f}"),
            _figure("e2e_cider", f"CIDEr, 0 to 10, mean over items, {scorer}", "CIDEr (E2E)", "{:.2f}"),
            Figure(name="e2e_signature", meaning="how the E2E challenge's scores were computed"),
        )

    def measure(self, outputs: Outputs) -> Measured:
        texts = [_mended(text) for text in outputs.texts]
        references = [[_mended(text) for text in with_text(some)] for some in outputs.references]
        rouge = coco_rouge_l(texts, references)
        ciders = cider(texts, references)
        return Measured(
            row={
                "e2e_bleu": e2e_bleu(texts, references),
                "e2e_nist": nist(texts, references),
                "e2e_rouge_l": sum(rouge) / len(rouge),
                "e2e_cider": sum(ciders) / len(ciders),
                "e2e_signature": SIGNATURE,
            }
        )


def _figure(name: str, meaning: str, label: str, form: str) -> Figure:
    shown = (Shown(place="details"),)
    return Figure(name=name, meaning=meaning, label=label, form=form, sense="maximize", shown=shown, over_seeds="mean")


def _mended(text: str) -> str:
    for broken, right in _MENDED.items():
        text = text.replace(broken, right)
    return text


@lru_cache(maxsize=2**15)
def _mteval_tokens(text: str) -> tuple[str, ...]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    # As sacrebleu's `lowercase`: case goes before tokens are found.
    return tuple(Tokenizer13a()(text.lower()).split())


def _ngrams(words: Sequence[str], n: int) -> list[Ngram]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _up_to(words: Sequence[str], order: int) -> Iterable[Ngram]:
    return (gram for n in range(1, order + 1) for gram in _ngrams(words, n))


def _merged(texts: Iterable[Sequence[Ngram]]) -> Counter[Ngram]:
    """Each n-gram as often as the text has it that has it most."""
    merged: Counter[Ngram] = Counter()
    for grams in texts:
        merged |= Counter(grams)
    return merged


def _nist_penalty(length: int, reference_length: float) -> float:
    if length == 0 or reference_length == 0:
        return 0.0
    return math.exp(-_BETA * math.log(min(1.0, length / reference_length)) ** 2)


def _rouge_l(own: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    common = [_common_subsequence(own, reference) for reference in references]
    precision = max(common) / max(1, len(own))
    recall = max(one / max(1, len(reference)) for one, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for column, other in enumerate(second):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[-1]))
        above = row
    return above[-1]


def _clipped_cosine(own: dict[Ngram, float], reference: dict[Ngram, float]) -> float:
    """Cosine in which the output's weights count no more than the reference's, against repetition."""
    dot = sum(min(weight, reference[gram]) * reference[gram] for gram, weight in own.items() if gram in reference)
    norms = math.sqrt(sum(w * w for w in own.values()) * sum(w * w for w in reference.values()))
    return dot / norms if norms else dot


E2E_SCORES = E2EScores()
