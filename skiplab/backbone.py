"""A thin view over a Hugging Face causal language model that lets the engine drive its layers one by one.

Shapes: B rows, T positions, Q query positions, S key positions, D hidden size, H key/value heads,
K head size or reduced vocabulary, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from skiplab.cache import KVCache


@dataclass(frozen=True)
class Context:
    """What a layer needs beside the hidden state.

    Attributes:
        mask_B1QS: additive attention mask, 0 or -inf; None is plain causal attention.
        cache: where the layers keep keys and values; None keeps none.
    """

    mask_B1QS: Tensor | None = None
    cache: KVCache | None = None

    def prefix(self, columns: int) -> "Context":
        """The context of the first `columns` positions."""
        if self.mask_B1QS is None:
            return self
        return Context(self.mask_B1QS[:, :, :columns, :columns], self.cache)


class Backbone(nn.Module, ABC):
    """Embedding, layers and head of a causal language model, callable apart."""

    model: PreTrainedModel
    num_layers: int
    max_positions: int
    hidden_size: int
    kv_heads: int
    head_size: int

    @abstractmethod
    def embed(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        """Token ids and positions (from 0) to the state (B, T, D) that the first layer takes."""

    @abstractmethod
    def layer(self, index: int, h_BTD: Tensor, context: Context) -> Tensor:
        """Run one decoder layer; its keys and values go to `context.cache`."""

    @abstractmethod
    def project_kv(self, index: int, h_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, K) that a layer would compute from its input, and nothing else."""

    @abstractmethod
    def head(self, h_BTD: Tensor) -> Tensor:
        """Final norm and language-model head: logits (..., V) of the states (..., D) after any layer."""

    @abstractmethod
    def reduced_head(self, ids_K: Tensor) -> Callable[[Tensor], Tensor]:
        """A head that gives the logits (..., K) of these tokens alone; its weights are a copy of the present ones."""

    @abstractmethod
    def layer_weights(self, index: int) -> Iterable[Tensor]:
        """All weights of a layer."""

    @abstractmethod
    def head_weights(self) -> Iterable[Tensor]:
        """All weights of final norm and language-model head."""

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def new_cache(self, rows: int, slots_L: list[int]) -> KVCache:
        """An empty store with `slots_L[l]` positions for layer `l`."""
        return KVCache(
            slots_L, rows=rows, heads=self.kv_heads, head_size=self.head_size, dtype=self.dtype, device=self.device
        )


@final
class OPTBackbone(Backbone):
    """OPT in both layouts: pre-norm, and OPT-350m's post-norm with `project_in` and `project_out`."""

    def __init__(self, model: OPTForCausalLM) -> None:
        super().__init__()
        model.set_attn_implementation("sdpa")
        config = model.config
        self.model = model
        self.num_layers = config.num_hidden_layers
        self.max_positions = config.max_position_embeddings
        self.hidden_size = config.hidden_size
        self.kv_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self._decoder = model.model.decoder

    def embed(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        decoder = self._decoder
        h_BTD = decoder.embed_tokens(ids_BT)
        if decoder.project_in is not None:
            h_BTD = decoder.project_in(h_BTD)
        return h_BTD + decoder.embed_positions(None, position_ids=position_BT)

    def layer(self, index: int, h_BTD: Tensor, context: Context) -> Tensor:
        return self._decoder.layers[index](h_BTD, attention_mask=context.mask_B1QS, past_key_values=context.cache)

    def project_kv(self, index: int, h_BTD: Tensor) -> tuple[Tensor, Tensor]:
        layer: Any = self._decoder.layers[index]
        if layer.do_layer_norm_before:
            h_BTD = layer.self_attn_layer_norm(h_BTD)
        shape = (*h_BTD.shape[:2], self.kv_heads, self.head_size)
        key, value = layer.self_attn.k_proj(h_BTD), layer.self_attn.v_proj(h_BTD)
        return key.view(shape).transpose(1, 2), value.view(shape).transpose(1, 2)

    def head(self, h_BTD: Tensor) -> Tensor:
        return self.model.lm_head(self._output(h_BTD))

    def reduced_head(self, ids_K: Tensor) -> Callable[[Tensor], Tensor]:
        weight_KD = self.model.lm_head.weight[ids_K].detach()
        return lambda h_BTD: F.linear(self._output(h_BTD), weight_KD)

    def layer_weights(self, index: int) -> Iterable[Tensor]:
        return self._decoder.layers[index].parameters()

    def head_weights(self) -> Iterable[Tensor]:
        decoder = self._decoder
        parts = (decoder.final_layer_norm, decoder.project_out, self.model.lm_head)
        return [weight for part in parts if part is not None for weight in part.parameters()]

    def _output(self, h_BTD: Tensor) -> Tensor:
        """What the language-model head takes."""
        decoder = self._decoder
        if decoder.final_layer_norm is not None:
            h_BTD = decoder.final_layer_norm(h_BTD)
        if decoder.project_out is not None:
            h_BTD = decoder.project_out(h_BTD)
        return h_BTD


@final
@dataclass(frozen=True, kw_only=True)
class OPTSpec:
    """The shape of an OPT model that starts from random weights.

    Args:
        hidden_size: D, a multiple of `num_heads`.
        ffn_size: width of the feed-forward layers; None is four times the hidden size, as in OPT.
        embed_size: width of the token embedding; None is the hidden size. Another size adds
            `project_in` and `project_out`, as in OPT-350m.
        pre_norm: False normalises after each block, as in OPT-350m.
        init_std: standard deviation of the initial weights.
        dropout: share of states dropped in training, as in OPT.
        vocab_size: entries of the token embedding; None is as many as the tokenizer has.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    max_positions: int
    ffn_size: int | None = None
    embed_size: int | None = None
    pre_norm: bool = True
    init_std: float = 0.02
    dropout: float = 0.0
    vocab_size: int | None = None

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

    def build(self, *, vocab_size: int, pad_id: int, bos_id: int, eos_id: int) -> OPTBackbone:
        """A backbone of this shape with random weights, for a tokenizer's vocabulary.

        Raises:
            ValueError: the vocabulary does not fit this shape's embedding.
        """
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise ValueError(f"backbone vocab_size={self.vocab_size} cannot hold the tokenizer's {vocab_size} entries")
        config = OPTConfig(
            vocab_size=self.vocab_size or vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            ffn_dim=self.ffn_size or 4 * self.hidden_size,
            word_embed_proj_dim=self.embed_size or self.hidden_size,
            max_position_embeddings=self.max_positions,
            do_layer_norm_before=self.pre_norm,
            dropout=self.dropout,
            init_std=self.init_std,
            pad_token_id=pad_id,
            bos_token_id=bos_id,
            eos_token_id=eos_id,
        )
        return OPTBackbone(OPTForCausalLM(config))
