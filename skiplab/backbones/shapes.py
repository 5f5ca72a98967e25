"""Shapes of the model families, with random weights or with those of a checkpoint of the same shape."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

from skiplab.backbones.adapters import adapt
from skiplab.backbones.checkpoint import Checkpoint, CheckpointError
from skiplab.backbones.spec import BackboneSpec
from skiplab.engine.backbone import Backbone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Shape(BackboneSpec, ABC):
    """Sizes of a model.

    Args:
        hidden_size: D, a multiple of `num_heads`.
        ffn_size: width of the feed-forward layers; None is four times the hidden size.
        init_std: standard deviation of random initial weights.
        dropout: dropout probability in training; which activations are dropped depends on the family.
        vocab_size: entries of the token embedding; None is as many as the tokenizer has.
        pretrained: True takes the checkpoint's weights and tokenizer, False random weights.
        checkpoint: a checkpoint of exactly this shape.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    max_positions: int
    ffn_size: int | None = None
    init_std: float = 0.02
    dropout: float = 0.0
    vocab_size: int | None = None
    pretrained: bool = False
    checkpoint: Checkpoint | None = None

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("num_layers", "hidden_size", "num_heads", "max_positions")}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"backbone {name} must be at least 1, got {size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"backbone dropout must lie in [0, 1), got {self.dropout}")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"backbone hidden_size must be a multiple of num_heads, got {self.hidden_size} and {self.num_heads}"
            )
        if self.pretrained and self.checkpoint is None:
            raise ValueError("backbone pretrained=true needs a checkpoint; take pretrained=false for random weights")

    @abstractmethod
    def config(self, vocab_size: int, **ids: Any) -> Any:
        """The Hugging Face configuration of this shape.

        Args:
            ids: `pad_token_id`, `bos_token_id`, `eos_token_id`.
        """

    @property
    def positions(self) -> int:
        return self.max_positions

    @property
    def vocabulary(self) -> int | None:
        return self.vocab_size

    @property
    def identity(self) -> str:
        return self.checkpoint.identity() if self.pretrained and self.checkpoint else ""

    def tokenizer(self) -> "PreTrainedTokenizerFast | None":
        return self.checkpoint.tokenizer() if self.pretrained and self.checkpoint else None

    def build(self, *, vocab_size: int, pad_id: int, bos_id: int, eos_id: int) -> Backbone:
        check_vocabulary(self.vocab_size, vocab_size)
        config = self.config(
            self.vocab_size or vocab_size, pad_token_id=pad_id, bos_token_id=bos_id, eos_token_id=eos_id
        )
        if self.pretrained and self.checkpoint and torch.get_default_device().type != "meta":
            return adapt(self.checkpoint.model(self._matching(self.checkpoint.config(), config)))
        return adapt(AutoModelForCausalLM.from_config(config, dtype=torch.float32))

    def _matching(self, theirs: Any, ours: Any) -> Any:
        """The checkpoint's configuration, with this shape's dropout.

        Raises:
            CheckpointError: it has another shape.
        """
        names = [
            "model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
            "ffn_dim", "intermediate_size", "word_embed_proj_dim", "max_position_embeddings", "vocab_size",
        ]  # fmt: skip
        differ = [
            f"{name} is {getattr(theirs, name, None)}, not {getattr(ours, name)}"
            for name in names
            if hasattr(ours, name) and getattr(theirs, name, None) != getattr(ours, name)
        ]
        if differ:
            raise CheckpointError(
                f"the checkpoint has another shape than the backbone: its {'; its '.join(differ)}. Take "
                "backbone=pretrained backbone.checkpoint.name=... for a checkpoint of any shape, or "
                "backbone.pretrained=false for random weights of your shape"
            )
        return with_dropout(theirs, self.dropout)


def check_vocabulary(embedding: int | None, tokenizer: int) -> None:
    """Refuse a tokenizer with more entries than the embedding."""
    if embedding is not None and embedding < tokenizer:
        raise ValueError(
            f"backbone vocab_size={embedding} cannot hold the tokenizer's {tokenizer} entries; take the checkpoint's "
            "own tokenizer, or a larger embedding with random weights"
        )


def with_dropout(config: Any, dropout: float) -> Any:
    """A configuration with dropout of states (OPT) or of attention weights (Llama family) in training."""
    name = "dropout" if config.model_type == "opt" else "attention_dropout"
    setattr(config, name, dropout)
    return config


@final
@dataclass(frozen=True, kw_only=True)
class OPTSpec(Shape):
    """The shape of an OPT model.

    Args:
        embed_size: width of the token embedding; None is the hidden size. Another size adds
            `project_in` and `project_out`, as in OPT-350m.
        pre_norm: False normalises after each block, as in OPT-350m.
    """

    embed_size: int | None = None
    pre_norm: bool = True

    def config(self, vocab_size: int, **ids: Any) -> OPTConfig:
        return OPTConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            ffn_dim=self.ffn_size or 4 * self.hidden_size,
            word_embed_proj_dim=self.embed_size or self.hidden_size,
            max_position_embeddings=self.max_positions,
            do_layer_norm_before=self.pre_norm,
            dropout=self.dropout,
            init_std=self.init_std,
            **ids,
        )


@final
@dataclass(frozen=True, kw_only=True)
class LlamaSpec(Shape):
    """The shape of a Llama model.

    Args:
        num_kv_heads: key/value heads, each shared by a group of query heads; None is one per query head.
        rope_theta: base of the rotary embeddings' wavelengths.
        norm_eps: of the root-mean-square norms.
        tie_embeddings: one matrix for token embedding and head.
    """

    num_kv_heads: int | None = None
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(
                f"backbone num_heads must be a multiple of num_kv_heads, got {self.num_heads} and {self.num_kv_heads}"
            )

    def config(self, vocab_size: int, **ids: Any) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads or self.num_heads,
            intermediate_size=self.ffn_size or 4 * self.hidden_size,
            max_position_embeddings=self.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            rms_norm_eps=self.norm_eps,
            tie_word_embeddings=self.tie_embeddings,
            attention_dropout=self.dropout,
            initializer_range=self.init_std,
            **ids,
        )
