"""A thin view over a Hugging Face causal language model that lets the engine drive its layers one by one.

Shapes: B rows, T positions, Q query positions, S key positions, D hidden size, E input size of the head,
H key/value heads, K head size or reduced vocabulary, V vocabulary.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from skiplab.engine.kv_cache import KVCache, KVStore


class Rotary(NamedTuple):
    """Rotary embeddings: the cosines and sines by which queries and keys of each position are rotated."""

    cos_BQK: Tensor
    sin_BQK: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Rotary":
        """Apply a function to both."""
        return Rotary(function(self.cos_BQK), function(self.sin_BQK))


@dataclass(frozen=True)
class Context:
    """Inputs of a layer besides the hidden state.

    Attributes:
        mask_B1QS: additive attention mask, 0 or -inf; None is plain causal attention.
        cache: where the layers store keys and values; None stores none.
        rotary: rotary embeddings of the positions, from `Backbone.rotary`.
    """

    mask_B1QS: Tensor | None = None
    cache: KVStore | None = None
    rotary: Rotary | None = None

    def prefix(self, columns: int) -> "Context":
        """The context of the first `columns` positions."""
        mask = None if self.mask_B1QS is None else self.mask_B1QS[:, :, :columns, :columns]
        rotary = self.rotary and self.rotary.map(lambda part: part[:, :columns])
        return replace(self, mask_B1QS=mask, rotary=rotary)

    def rows(self, index: Tensor) -> "Context":
        """The context of some rows."""
        mask = None if self.mask_B1QS is None else self.mask_B1QS[index]
        rotary = self.rotary and self.rotary.map(lambda part: part[index])
        return replace(self, mask_B1QS=mask, rotary=rotary)


class Backbone(nn.Module, ABC):
    """Embedding, layers and head of a causal language model, each callable on its own."""

    model: PreTrainedModel
    num_layers: int
    max_positions: int
    hidden_size: int
    kv_heads: int
    head_size: int

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The library's decoder layers, first layer first."""

    @abstractmethod
    def embed(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        """Token ids and positions (from 0) to the state (B, T, D) that the first layer takes."""

    @abstractmethod
    def rotary(self, position_BT: Tensor) -> Rotary | None:
        """Rotary embeddings for all layers; None if the model embeds positions instead."""

    @abstractmethod
    def layer(self, index: int, h_BTD: Tensor, context: Context) -> Tensor:
        """Run one decoder layer; its keys and values go to `context.cache`."""

    @abstractmethod
    def project_kv(self, index: int, h_BTD: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        """Only the keys and values (B, H, T, K) that a layer computes from its input.

        Args:
            rotary: rotary embeddings of the states' positions.
        """

    @abstractmethod
    def head_input(self, h_BTD: Tensor) -> Tensor:
        """The input (..., E) of the language-model head: the states (..., D) after any layer, normalised."""

    @abstractmethod
    def head(self, h_BTD: Tensor) -> Tensor:
        """Final norm and language-model head: logits (..., V) of the states (..., D) after any layer."""

    @abstractmethod
    def reduced_head(self, ids_K: Tensor) -> Callable[[Tensor], Tensor]:
        """A head for only these tokens, with logits (..., K); it copies the current weights."""

    @abstractmethod
    def head_weights(self) -> Iterable[Tensor]:
        """All weights of final norm and language-model head."""

    def layer_weights(self, index: int) -> Iterable[Tensor]:
        """All weights of a layer."""
        return self.layers[index].parameters()

    @property
    def head_weight(self) -> Tensor:
        """The language-model head's weight (V, E); it has no bias."""
        head = self.model.get_output_embeddings()
        assert head is not None
        return head.weight

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


def cache_keyword(layer: nn.Module) -> str:
    """The keyword by which a decoder layer takes its cache: `past_key_values`, or `cache` from transformers 5.24 on."""
    return "cache" if "cache" in inspect.signature(layer.forward).parameters else "past_key_values"
