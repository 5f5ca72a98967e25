"""The tokenizer of a GGUF file, which holds vocabulary and merges, and names a known kind for the rest."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import AutoTokenizer

from skiplab.backbones.whole_weights import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_NORMAL = 1
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


class _Kind(NamedTuple):
    """How texts are split before byte-level merges: by a pattern, or by GPT-2's own if it is None.

    Attributes:
        digits: whether digits are split off one by one before that.
        composed: whether characters are composed first (NFC).
        whole_words: whether words that are in the vocabulary skip the merges.
    """

    pattern: str | None = None
    digits: bool = False
    composed: bool = False
    whole_words: bool = False


_KINDS: Mapping[str, _Kind] = MappingProxyType({
    "gpt-2": _Kind(),
    "smollm": _Kind(digits=True),
    "llama-bpe": _Kind(_LLAMA3, whole_words=True),
    "llama3": _Kind(_LLAMA3, whole_words=True),
    "qwen2": _Kind(_QWEN2, composed=True),
    "deepseek-r1-qwen": _Kind(_QWEN2, composed=True),
})  # fmt: skip


def gguf_tokenizer(file: Path, fields: Mapping[str, Any]) -> "PreTrainedTokenizerFast":
    """The tokenizer of a `tokenizer.json` in the same folder, if there is one, otherwise the file's own.

    Raises:
        CheckpointError: it is of a kind that cannot be rebuilt, or the `tokenizer.json` belongs to another model.
    """
    beside = (file.parent / "tokenizer.json").is_file()
    if not beside:
        _check_kind(file, fields)
    options: dict[str, Any] = {} if beside else {"gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, padding_side="left", use_fast=True, trust_remote_code=False, **options
        )
    except Exception as error:  # they raise errors of many types for damaged vocabularies
        raise CheckpointError(f"the tokenizer of {file} cannot be read: {type(error).__name__}: {error}") from error
    if not beside:
        _complete(tokenizer, fields)
    _check_tokens(file, tokenizer, fields, beside)
    return tokenizer


def _check_kind(file: Path, fields: Mapping[str, Any]) -> None:
    model, kind = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    spaced = model == "llama" and fields.get("tokenizer.ggml.add_space_prefix", True)
    if not spaced and not (model == "gpt2" and kind in _KINDS):
        raise CheckpointError(
            f"the tokenizer of {file} is of a kind that cannot be rebuilt from it (model {model!r}, pre {kind!r}); put "
            "the original model's tokenizer.json and tokenizer_config.json beside it"
        )


def _complete(tokenizer: "PreTrainedTokenizerFast", fields: Mapping[str, Any]) -> None:
    """Set the parts that some versions of transformers ignore, or read as another kind's."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    if fields["tokenizer.ggml.model"] == "gpt2":
        kind, backend = _KINDS[fields["tokenizer.ggml.pre"]], tokenizer.backend_tokenizer
        parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if kind.digits else []
        if kind.pattern is not None:
            parts.append(pre_tokenizers.Split(Regex(kind.pattern), behavior="isolated"))
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind.pattern is None))
        backend.pre_tokenizer = pre_tokenizers.Sequence(parts)  # type: ignore[assignment]
        backend.normalizer = normalizers.NFC() if kind.composed else None  # type: ignore[assignment]
        backend.model.ignore_merges = kind.whole_words  # type: ignore[attr-defined]
    tokens = fields["tokenizer.ggml.tokens"]
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        if (index := fields.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            setattr(tokenizer, name, tokens[index])
    if tokenizer.pad_token is None:
        # Padding is masked, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token


def _check_tokens(file: Path, tokenizer: "PreTrainedTokenizerFast", fields: Mapping[str, Any], beside: bool) -> None:
    tokens = fields.get("tokenizer.ggml.tokens", [])
    kinds = fields.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    known = tokenizer.convert_ids_to_tokens(list(range(min(len(tokens), len(tokenizer)))))
    normal = [index for index, kind in enumerate(kinds) if kind == _NORMAL]
    wrong = [index for index in normal if index >= len(known) or known[index] != tokens[index]]
    if wrong:
        source = "the tokenizer.json beside it" if beside else "what transformers makes of it"
        raise CheckpointError(
            f"{len(wrong)} of {len(normal)} tokens of {file} differ from those in {source}, first {tokens[wrong[0]]!r} "
            f"with the id {wrong[0]}; put the original model's tokenizer.json and tokenizer_config.json beside it"
        )
    begins = fields.get("tokenizer.ggml.add_bos_token", fields.get("tokenizer.ggml.model") == "llama")
    if not beside and begins != (tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id):
        raise CheckpointError(
            f"{file} states add_bos_token={begins}, which transformers' reader ignores; put the original model's "
            "tokenizer.json and tokenizer_config.json beside it"
        )
