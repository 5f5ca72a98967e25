"""Group rows with the same prompt into one item with several references."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from skiplab.utils.files import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def grouped(splits: "DatasetDict") -> "DatasetDict":
    """The splits with one row per prompt, which has the references of all its rows in that split.

    Warns of prompts that occur in several splits, because such items were seen before.
    """
    from datasets import DatasetDict

    prompts = {str(split): rows["prompt"][:] for split, rows in splits.items()}
    for earlier, later in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if shared := len(set(prompts[earlier]) & set(prompts[later])):
            warnings.warn(
                f"{shared} prompt(s) of the {later} split are in the {earlier} split too, so scores on them are not "
                f"on unseen items; remove them from one of the two",
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
    # An explicit fingerprint, because hashing the closure would read all rows.
    return first.map(joined, new_fingerprint=fingerprint(grouped=rows._fingerprint))
