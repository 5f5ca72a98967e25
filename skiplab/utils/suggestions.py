"""The ends of messages about unknown names: the name that was probably meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name: the most similar known name, or nothing.

    Args:
        cutoff: similarity in [0, 1] from which a name counts as similar.
    """
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""


def suggestion(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, or all known ones."""
    known = list(known)
    return did_you_mean(name, known) or (f"; choose from {', '.join(known)}" if known else "")
