"""From a task's texts to token ids and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Template:
    """What stands around a prompt, and how much of the texts is kept.

    Args:
        prompt: text with `{prompt}` where the prompt goes.
        close: text behind it, from which a pretrained model goes on. A tokenizer made for the task has a token of
            its own for that.
        longest_prompt, longest_target: tokens of a prompt, `close` included, and of a target, end of sequence
            included; longer texts lose their end. None cuts nothing.
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
        pretrained: whether the tokenizer is a pretrained model's. Its special tokens then stand where that model
            expects them, and `Template.close` closes the prompt; else the begin-of-sequence token does.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", template: Template, *, pretrained: bool) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.pretrained = pretrained
        self._close = tokenizer(template.close, add_special_tokens=False)["input_ids"] if pretrained else [self.bos_id]
        longest = template.longest_prompt
        if longest is not None and longest <= len(self._close):
            raise ValueError(f"template.longest_prompt={longest} leaves no token of the prompt beside template.close")

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
        """Plain values that the tokens depend on."""
        text = self.tokenizer.backend_tokenizer.to_str()
        template = vars(self.template) if self.pretrained else {**vars(self.template), "close": None}
        return {"tokenizer": text, "template": template, "pretrained": self.pretrained}

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, closed, ready to be continued."""
        whole = [self.template.prompt.replace("{prompt}", text) for text in texts]
        encoded = self.tokenizer(whole, add_special_tokens=self.pretrained)["input_ids"]
        longest = self.template.longest_prompt
        kept = None if longest is None else longest - len(self._close)
        return [[*ids[:kept], *self._close] for ids in encoded]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of targets with end of sequence, which one that is cut does not reach."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[*ids, self.eos_id][: self.template.longest_target] for ids in encoded]

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Outputs as text, without special tokens."""
        return [
            text.strip()
            for text in self.tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True)
        ]


def _special(tokenizer: "PreTrainedTokenizerFast", kind: str) -> int:
    index = getattr(tokenizer, f"{kind}_token_id")
    if index is None:
        raise ValueError(f"the tokenizer has no {kind} token; set one before use")
    return index
