"""The words that ROUGE counts, in every script."""

import unicodedata

import regex

ROUGE_TOKENIZER = "unicode-words+unspaced-characters"
"""Name of `rouge_tokens` in signatures."""
# Scripts that put no spaces between words.
_UNSPACED = "".join(
    rf"\p{{Script={name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
)
_TOKEN = regex.compile(
    rf"""
    (?=\p{{L}}) [{_UNSPACED}] \p{{M}}*
  | (?: (?! (?=\p{{L}}) [{_UNSPACED}]) [\p{{L}}\p{{N}}\p{{M}}] )+
    """,
    regex.VERBOSE,
)


def rouge_tokens(text: str) -> list[str]:
    """Lower-case runs of letters, marks and digits; every other character parts them.

    Letters of scripts without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese) are a token each, with
    their marks. Equal spellings of a character are one (NFC). On ASCII text the tokens are those of rouge_score.
    """
    return _TOKEN.findall(unicodedata.normalize("NFC", text).lower())
