"""Words of English text as COCO's caption evaluation counts them: Penn Treebank tokens without punctuation.

After Stanford's PTBTokenizer 3.4.1 with `-lowerCase`, whose result COCO's caption evaluation strips of punctuation. It
is for short plain English; URLs, e-mail addresses, dates and the rarer abbreviations are split as other text is.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

_CONTRACTION = r"(?:n['\u2019]t|['\u2019](?:s|re|ve|ll|d|m))(?![a-z])"
_ABBREVIATION = r"(?:mr|mrs|ms|dr|st|jr|sr|co|corp|inc|ltd|etc|vs|ave|blvd|rd|no)\."
_TOKEN = re.compile(
    rf"""
    {_CONTRACTION}
  | {_ABBREVIATION}(?=\s+\S)
  | [a-z]+\.(?=[,;])                                        # taken for an abbreviation
  | [dol]['\u2019][a-z]{{2,}}                                     # d'oeuvre
  | (?:[a-z]\.){{2,}}                                       # U.S., a.m.
  | [-+]?(?:\d+(?:,\d{{3}})*(?:\.\d+)?|\.\d+)(?![\w])(?!-\w)       # numbers
  | (?:(?!{_CONTRACTION})[^\W_])+(?:[-&](?:(?!{_CONTRACTION})[^\W_])+|\.\d+)*   # words, hyphenated ones whole
  | \S
    """,
    re.VERBOSE,
)
_SPELLING: Mapping[str, str] = MappingProxyType(
    {
        "£": "#",
        "(": "-lrb-",
        ")": "-rrb-",
        "[": "-lsb-",
        "]": "-rsb-",
        "{": "-lcb-",
        "}": "-rcb-",
    }
)
_PUNCTUATION = frozenset("'`.?!,:-;\"\u2018\u2019\u201c\u201d\u2013\u2014…")


@lru_cache(maxsize=2**15)
def ptb_tokens(text: str) -> tuple[str, ...]:
    """Lower-case words and symbols of a text, punctuation left out."""
    found: list[str] = _TOKEN.findall(text.lower())
    return tuple(_SPELLING.get(token, token) for token in found if token not in _PUNCTUATION)
