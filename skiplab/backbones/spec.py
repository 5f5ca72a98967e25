"""The interface of backbone specifications."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from skiplab.engine.backbone import Backbone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class BackboneSpec(ABC):
    """A shape with random weights, or a checkpoint's weights."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """The most positions of a sequence."""

    @property
    @abstractmethod
    def vocabulary(self) -> int | None:
        """Entries of the token embedding; None is as many as the tokenizer has."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Identifies the version of the checkpoint's weights; empty if weights are random."""

    @abstractmethod
    def tokenizer(self) -> "PreTrainedTokenizerFast | None":
        """The checkpoint's tokenizer; None if weights are random, so that any will do.

        Raises:
            CheckpointError: it cannot be loaded.
        """

    @abstractmethod
    def build(self, *, vocab_size: int, pad_id: int, bos_id: int, eos_id: int) -> Backbone:
        """The backbone, for a tokenizer's vocabulary. On the meta device it has no weights, and none are loaded.

        Raises:
            ValueError: the vocabulary does not fit the embedding.
            CheckpointError: the weights cannot be loaded.
        """
