"""Tokenizers trained on a task, for backbones that have none."""

from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_SPECIAL = MappingProxyType({"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<text>", "unk_token": "<unk>"})


def word_tokenizer(words: Iterable[str]) -> "PreTrainedTokenizerFast":
    """One token per word of a closed vocabulary, words separated by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate([*_SPECIAL.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return _wrap(tokenizer)


def first_texts(rows: "Dataset", count: int = 20_000) -> Iterator[str]:
    """Prompts and references of the first rows, enough to train a tokenizer."""
    for row in rows.select(range(min(count, len(rows)))):
        yield row["prompt"]  # type: ignore[index]
        yield from row["references"]  # type: ignore[index]


def byte_bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Byte-level BPE trained on `texts`; any text can be encoded, and is decoded exactly."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def _wrap(tokenizer: "Tokenizer") -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **_SPECIAL
    )
