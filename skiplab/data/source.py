"""The interface of a task's source of examples."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerFast


class Source(ABC):
    """A task: its splits, its tokenizer, and its own scores (beyond text overlap)."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The task's name in reports."""

    @abstractmethod
    def load(self) -> "DatasetDict":
        """Splits `train`, `valid`, `test` with columns `prompt` (str) and `references` (list of str).

        Raises:
            ValueError, FileNotFoundError: the data cannot be used; the message says what to do.
        """

    @abstractmethod
    def tokenizer(self, splits: "DatasetDict") -> "PreTrainedTokenizerFast":
        """A tokenizer with pad, end-of-sequence and begin-of-sequence tokens.

        The begin-of-sequence token closes the prompt: generation starts behind it.
        """

    @abstractmethod
    def item_scores(self, prompt: str, output: str) -> dict[str, float]:
        """Task-specific scores in [0, 1] of one output; empty if the task has none.

        A score other than `slot_accuracy` needs a figure: `FIGURES.register` of `skiplab.utils.figures`, where the
        source is defined.
        """


class SlotSource(ABC):
    """A task whose prompts request slots; a `Source` that is one too has its wrong slots marked in reports."""

    @abstractmethod
    def slots(self, prompt: str, output: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
        """The (slot, value) pairs that the prompt requests, and those that the output states."""
