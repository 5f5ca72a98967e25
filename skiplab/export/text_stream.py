"""Text from tokens that arrive one by one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a tokenizer decodes an incomplete character to.
_UNFINISHED = "\ufffd"


def before_stop(text: str, stop_strings: Sequence[str]) -> str:
    """A text up to the first stop string in it."""
    found = [at for stop in stop_strings if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


@final
class TextStream:
    """Turns tokens into pieces of text that, joined, are the output's text.

    Text that may still change is held back: an incomplete character, the beginning of a stop string, trailing space,
    and, if the tokenizer cleans up spaces, the last word.

    Args:
        stop_strings: the text ends before the first of them.

    Attributes:
        stopped: whether there was one.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop_strings: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop_strings = stop_strings
        self._ids: list[int] = []
        self._given = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is final once a token has come; often the empty string."""
        self._ids.append(token)
        text = self._text()
        self.stopped = any(stop in text for stop in self._stop_strings)
        if not self.stopped:
            text = self._certain(text)
        return self._new(text)

    def end(self) -> str:
        """The text that was held back."""
        return self._new(self._text())

    def _new(self, text: str) -> str:
        text = before_stop(text, self._stop_strings).strip()
        if not text.startswith(self._given):
            # The tokenizer has changed text that was given out; the rest follows once it agrees again.
            return ""
        new = text[len(self._given) :]
        self._given = text
        return new

    def _text(self) -> str:
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def _certain(self, text: str) -> str:
        text = text.rstrip(_UNFINISHED)
        for stop in self._stop_strings:
            begun = next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)
            text = text[: len(text) - begun]
        if getattr(self._tokenizer, "clean_up_tokenization_spaces", False):
            text = text[: text.rfind(" ") + 1]
        return text
