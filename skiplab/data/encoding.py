"""Tokenization of a task's texts with a template, and decoding of outputs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Template:
    """The text around a prompt, and limits beyond which texts are truncated.

    Args:
        prompt: text with `{prompt}` in the place of the prompt.
        close: text after the prompt, for a pretrained model. With a tokenizer made for the task, the begin-of-sequence
            token takes its place.
        longest_prompt, longest_target: the most tokens of a prompt, `close` included, and of a target, end of sequence
            included; longer texts are cut at the end. None cuts nothing.
    """

    prompt: str = "{prompt}"
    close: str = "\n"
    longest_prompt: int | None = None
    longest_target: int | None = None

    def __post_init__(self) -> None:
        if self.prompt.count("{prompt}") != 1:
            raise ValueError(f"template.prompt must hold {{prompt}} once, got {self.prompt!r}")
        for name in ("longest_prompt", "longest_target"):
            longest = getattr(self, name)
            if longest is not None and longest < 2:
                raise ValueError(f"template.{name} must be at least 2 tokens, got {longest}")


@final
class Encoding:
    """A tokenizer with a template.

    Args:
        pretrained: whether the tokenizer is a pretrained model's. Special tokens are then placed as that model expects
            them, and `Template.close` ends the prompt; otherwise the begin-of-sequence token ends it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", template: Template, *, pretrained: bool) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.pretrained = pretrained
        self._controls = control_tokens(tokenizer)
        self._start = _start(tokenizer) if pretrained else []
        self._close = tokenizer(template.close, add_special_tokens=False)["input_ids"] if pretrained else [self.bos_id]
        longest = template.longest_prompt
        if longest is not None and longest <= len(self._close):
            raise ValueError(f"template.longest_prompt={longest} leaves no room for the prompt beside template.close")

    @property
    def pad_id(self) -> int:
        return _special(self.tokenizer, "pad")

    @property
    def eos_id(self) -> int:
        return _special(self.tokenizer, "eos")

    @property
    def bos_id(self) -> int:
        """Begin of sequence; of a pretrained tokenizer without one, end of sequence."""
        if self.pretrained and self.tokenizer.bos_token_id is None:
            return self.eos_id
        return _special(self.tokenizer, "bos")

    @property
    def identity(self) -> dict[str, object]:
        """Plain values on which the tokens depend, including the rules of this class."""
        text = self.tokenizer.backend_tokenizer.to_str()
        template = vars(self.template) if self.pretrained else {**vars(self.template), "close": None}
        return {"tokenizer": text, "template": template, "pretrained": self.pretrained, "control_tokens": "as text"}

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, with the end of the template.

        Control tokens in the template are encoded as such; in a text, their spelling is encoded as plain text.
        """
        before, after = self.template.prompt.split("{prompt}")
        encoded = self._encoded(texts, before, after)
        longest = self.template.longest_prompt
        kept = None if longest is None else longest - len(self._close)
        return [[*[*self._start, *ids][:kept], *self._close] for ids in encoded]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of targets with end of sequence; truncated targets lack it."""
        encoded = self._encoded(texts)
        return [[*ids, self.eos_id][: self.template.longest_target] for ids in encoded]

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Outputs as text, without special tokens."""
        return [
            text.strip()
            for text in self.tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True)
        ]

    def _encoded(self, texts: Sequence[str], before: str = "", after: str = "") -> list[list[int]]:
        """Token ids of texts between two parts of the template, without the tokens that begin or end a text."""
        if not texts:
            return []
        found: list[list[int]] = self.tokenizer([before + text + after for text in texts], add_special_tokens=False)[
            "input_ids"
        ]
        controls = set(self._controls.values())
        # More control tokens than the template has: the text spells some, or the tokenizer used its unknown token.
        meant = sum(index in controls for index in self._ids(before + after))
        return [
            ids if sum(index in controls for index in ids) == meant else self._as_text(text, before, after)
            for text, ids in zip(texts, found, strict=True)
        ]

    def _as_text(self, text: str, before: str, after: str) -> list[int]:
        """Token ids of a text that spells control tokens."""
        spelled = re.compile(f"({'|'.join(map(re.escape, sorted(self._controls, key=len, reverse=True)))})")
        # Splitting at control tokens: parts with odd index are control tokens of the template.
        *first, left = spelled.split(before)
        right, *last = spelled.split(after)
        ids = self._ids(left + text + right, split=True)
        unknown = self.tokenizer.unk_token_id
        if any(index in self._controls.values() and index != unknown for index in ids):
            # The vocabulary has the spelling as a word, so split it: no encoded piece spells it completely.
            parts = spelled.split(left + text + right)
            cut = [[part] if index % 2 == 0 else [part[:1], part[1:]] for index, part in enumerate(parts)]
            ids = [index for pieces in cut for piece in pieces for index in self._ids(piece, split=True)]
        return [*self._ids("".join(first)), *ids, *self._ids("".join(last))]

    def _ids(self, text: str, *, split: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"] if text else []


def control_tokens(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    """Ids of a tokenizer's control tokens by their spelling."""
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def typed_newlines(text: str) -> str:
    """A text of the command line, where a newline and a tab are typed as a backslash with n or t."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _start(tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """The tokens that a pretrained tokenizer puts before a text; those that it puts after one would end the prompt."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    marked = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return [index for index, _ in takewhile(lambda pair: pair[1], marked)]


def _special(tokenizer: "PreTrainedTokenizerFast", kind: str) -> int:
    index = getattr(tokenizer, f"{kind}_token_id")
    if index is None:
        raise ValueError(f"the tokenizer has no {kind} token; set one before use")
    return index
