"""Rows of one prompt as one item with several references."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from skiplab.utils.files import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def grouped(splits: "DatasetDict") -> "DatasetDict":
    """The same with one row per prompt, which has the references of all rows of that prompt in its split.

    Warns of prompts that several splits have: their items are no new ones.
    """
    from datasets import DatasetDict

    prompts = {str(split): rows["prompt"][:] for split, rows in splits.items()}
    for earlier, later in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if shared := len(set(prompts[earlier]) & set(prompts[later])):
            warnings.warn(
                f"{shared} prompt(s) of the {later} split are in the {earlier} split too: what is measured on them is "
                f"not of new items; take them out of one of the two",
                stacklevel=2,
            )
    return DatasetDict({split: _grouped(rows, prompts[str(split)]) for split, rows in splits.items()})


def _grouped(rows: "Dataset", prompts: Sequence[str]) -> "Dataset":
    members: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(index)
    if len(members) == len(prompts):
        return rows

    def joined(row: dict[str, Any]) -> dict[str, Any]:
        return {"references": [text for some in rows[members[row["prompt"]]]["references"] for text in some]}

    first = rows.select([indices[0] for indices in members.values()])
    # A name of its own, because hashing the closure would read all rows.
    return first.map(joined, new_fingerprint=fingerprint(grouped=rows._fingerprint))
