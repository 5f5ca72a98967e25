"""Stop strings: texts that end an output.

Shapes: B rows, T prompt and generated tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from transformers import StoppingCriteria, StopStringCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def stop_criterion(
    tokenizer: "PreTrainedTokenizerBase", stop_strings: Sequence[str], prompt_columns: int
) -> StoppingCriteria:
    """The stopping criterion of transformers; if it does not support the tokenizer, one that decodes the rows.

    Args:
        prompt_columns: width of the prompts.
    """
    try:
        return StopStringCriteria(tokenizer, list(stop_strings))  # type: ignore[arg-type]
    except ValueError:
        # It searches for the text of one token inside that of another; a word-level vocabulary has no such tokens.
        return DecodedStopStrings(tokenizer, stop_strings, prompt_columns)


@final
class DecodedStopStrings(StoppingCriteria):
    """Ends rows whose generated text contains a stop string; arguments as for `stop_criterion`."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop_strings: Sequence[str], prompt_columns: int) -> None:
        self._tokenizer = tokenizer
        self._stop_strings = stop_strings
        self._columns = prompt_columns

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]
        """Rows (B,) that end, of the tokens (B, T)."""
        texts = self._tokenizer.batch_decode(input_ids[:, self._columns :], skip_special_tokens=True)
        found = [any(stop in text for stop in self._stop_strings) for text in texts]
        return torch.tensor(found, device=input_ids.device)
