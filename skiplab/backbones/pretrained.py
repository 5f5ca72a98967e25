"""A backbone with the shape of its checkpoint."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from transformers import AutoModelForCausalLM

from skiplab.backbones.adapters import adapt
from skiplab.backbones.checkpoint import Checkpoint
from skiplab.backbones.shapes import check_vocabulary, with_dropout
from skiplab.backbones.spec import BackboneSpec
from skiplab.engine.backbone import Backbone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@final
@dataclass(frozen=True, kw_only=True)
class PretrainedSpec(BackboneSpec):
    """A checkpoint's shape, weights and tokenizer.

    Args:
        dropout: as in `Shape`.
        pretrained: False uses random weights with the checkpoint's shape.
    """

    checkpoint: Checkpoint
    dropout: float = 0.0
    pretrained: bool = True

    @cached_property
    def _config(self) -> Any:
        return with_dropout(self.checkpoint.config(), self.dropout)

    @property
    def positions(self) -> int:
        return self._config.max_position_embeddings

    @property
    def vocabulary(self) -> int | None:
        return self._config.vocab_size

    @property
    def identity(self) -> str:
        return self.checkpoint.identity() if self.pretrained else ""

    def tokenizer(self) -> "PreTrainedTokenizerFast | None":
        return self.checkpoint.tokenizer() if self.pretrained else None

    def build(self, *, vocab_size: int, pad_id: int, bos_id: int, eos_id: int) -> Backbone:
        check_vocabulary(self.vocabulary, vocab_size)
        if self.pretrained and torch.get_default_device().type != "meta":
            return adapt(self.checkpoint.model(self._config))
        return adapt(AutoModelForCausalLM.from_config(self._config, dtype=torch.float32))
