"""BERTScore (arXiv 1904.09675) with a configurable encoder.

Shapes: T tokens of a text, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.backbones.whole_weights import load_whole
from skiplab.evaluation.metric import EVERYWHERE, Measured, Metric, Outputs, quality_figure
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.figures import Figure, Shown

# Tokens of a text that count, and texts encoded at once.
_LONGEST = 512
_TOGETHER = 64

# A cosine, which can be below 0.
BERTSCORE_F1 = quality_figure(
    "bertscore_f1",
    "BERTScore F1, mean over items",
    label="BERTScore",
    unit="cosine",
    shown=(EVERYWHERE[0], Shown(place="plot", label="BERTScore F1")),
)


def f1(output_TD: Tensor, reference_TD: Tensor) -> float:
    """Harmonic mean of precision and recall: of each token's best cosine in the other text. States have length 1."""
    if not len(output_TD) or not len(reference_TD):
        return 0.0
    cosine_TT = output_TD @ reference_TD.T
    precision, recall = float(cosine_TT.amax(1).mean()), float(cosine_TT.amax(0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@final
@dataclass(frozen=True)
class BERTScore(Metric):
    """F1 of an encoder's last states, without weights by rarity and without rescaling.

    Args:
        encoder: a hub name, or a folder with safetensors.
    """

    encoder: str

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (BERTSCORE_F1,)

    def measure(self, outputs: Outputs) -> Measured:
        return Measured({BERTSCORE_F1.name: self.scores(outputs.texts, outputs.references, outputs.ranks)})

    def scores(self, outputs: Sequence[str], references: Sequence[Sequence[str]], ranks: Ranks = ALONE) -> list[float]:
        """F1 of each output against its best reference; an empty output has 0. The ranks share the outputs.

        Raises:
            ValueError: the encoder cannot be loaded.
        """
        return ranks.share(list(zip(outputs, references, strict=True)), self._score)

    def _score(self, pair: tuple[str, Sequence[str]]) -> float:
        output_TD, *references = self._states([pair[0], *pair[1]])
        return max(f1(output_TD, reference_TD) for reference_TD in references)

    def check(self) -> None:
        """Load the encoder.

        Raises:
            ValueError: it cannot be loaded; the message says what to do.
        """
        _ = self._parts

    @torch.inference_mode()
    def _states(self, texts: Sequence[str]) -> list[Tensor]:
        """Each text's states (T, D), of length 1, without those of special tokens."""
        tokenizer, model = self._parts
        longest = min(_LONGEST, model.config.max_position_embeddings)
        found: list[Tensor] = []
        for first in range(0, len(texts), _TOGETHER):
            part = list(texts[first : first + _TOGETHER])
            options = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
            batch = tokenizer(part, return_special_tokens_mask=True, **options)
            own_BT = batch.pop("special_tokens_mask") == 0
            h_BTD = F.normalize(model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0], dim=-1)
            found += [h_TD[own_T] for h_TD, own_T in zip(h_BTD, own_BT, strict=True)]
        return found

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.encoder, trust_remote_code=False)
            model = load_whole(self.encoder, load=AutoModel.from_pretrained, unused=("pooler.",)).eval()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load the encoder of bertscore={self.encoder}: {str(error).splitlines()[0]} Give a folder that "
                "save_pretrained made, or bertscore=null"
            ) from error
        return tokenizer, model
