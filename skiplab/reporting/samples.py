"""Outputs side by side, with what differs from the full model's and which slots are wrong."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal, NamedTuple, final

from skiplab.reporting.record import Record

if TYPE_CHECKING:
    from skiplab.data.module import Item

Slots = set[tuple[str, str]]
ReadSlots = Callable[[str, str], tuple[Slots, Slots]]
"""From prompt and output, the slots that are requested and those that are stated."""


class Piece(NamedTuple):
    """Words of an output: those of the full model's output, further ones, or missing ones."""

    kind: Literal["same", "more", "less"]
    text: str


@final
@dataclass(frozen=True)
class Output:
    """An output, and the settings that gave it.

    Attributes:
        missing, wrong: slots that are requested and not stated, and the other way round.
    """

    labels: Sequence[str]
    pieces: Sequence[Piece]
    missing: Sequence[str] = ()
    wrong: Sequence[str] = ()


@final
@dataclass(frozen=True)
class Sample:
    """One test prompt with every setting's output, the full model's first."""

    prompt: str
    references: Sequence[str]
    outputs: Sequence[Output]


def samples(
    items: Sequence["Item"], records: Sequence[Record], *, count: int, slots: ReadSlots | None = None
) -> list[Sample]:
    """The first test items with the outputs of all finished settings at their first seed; equal outputs stand once.

    Args:
        records: the full model's first, from which differences are marked.
        slots: None marks no slots.
    """
    texts: dict[str, Sequence[str]] = {}
    for record in records:
        texts.setdefault(record.entry.label, record.outputs.texts)
    return [
        Sample(
            item.prompt, item.references, _outputs(item.prompt, {label: own[at] for label, own in texts.items()}, slots)
        )
        for at, item in enumerate(items[:count])
    ]


def _outputs(prompt: str, by_label: dict[str, str], slots: ReadSlots | None) -> list[Output]:
    by_text: dict[str, list[str]] = {}
    for label, text in by_label.items():
        by_text.setdefault(text, []).append(label)
    full = next(iter(by_text), "")
    found = []
    for text, labels in by_text.items():
        asked, stated = slots(prompt, text) if slots else (set(), set())
        found.append(Output(labels, pieces(full, text), _named(asked - stated), _named(stated - asked)))
    return found


def pieces(full: str, own: str) -> list[Piece]:
    """An output in pieces, word by word against the full model's."""
    before, after = (re.findall(r"\s*\S+", text) for text in (full, own))
    found: list[Piece] = []
    for kind, low, high, start, stop in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            found.append(Piece("same", "".join(after[start:stop])))
            continue
        if high > low:
            found.append(Piece("less", "".join(before[low:high])))
        if stop > start:
            found.append(Piece("more", "".join(after[start:stop])))
    return found


def _named(slots: Slots) -> list[str]:
    return [f"{slot}={value}" for slot, value in sorted(slots)]
