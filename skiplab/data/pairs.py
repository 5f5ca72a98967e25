"""Prompt and target as token ids, in Arrow tables that are memory-mapped if their source is."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from skiplab.data.encoding import Encoding

if TYPE_CHECKING:
    from datasets import Dataset

Pair = tuple[list[int], list[int]]
# From this many rows on, tokenizing takes more than a few seconds, and a progress bar is shown.
_MANY = 20_000


@final
class Pairs(Sequence[Pair]):
    """One pair per reference, read on demand."""

    def __init__(self, rows: "Dataset") -> None:
        self._rows = rows

    @cached_property
    def lengths(self) -> list[tuple[int, int]]:
        """(prompt, target) tokens of each pair."""
        counted = self._rows.select_columns(["prompt_tokens", "target_tokens"]).with_format("numpy")[:]
        return list(zip(counted["prompt_tokens"].tolist(), counted["target_tokens"].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        row = self._rows[int(index)]
        return row["prompt"], row["target"]

    def __getitems__(self, indices: Sequence[int]) -> list[Pair]:
        """The pairs of a batch, in one read; torch's data loader calls this method."""
        rows = self._rows[list(indices)]
        return list(zip(rows["prompt"], rows["target"], strict=True))


def pairs_of(pairs: Iterable[Pair]) -> Pairs:
    """Pairs that are token ids already."""
    from datasets import Dataset

    prompts, targets = zip(*pairs, strict=True)
    lengths = {"prompt_tokens": [len(ids) for ids in prompts], "target_tokens": [len(ids) for ids in targets]}
    return Pairs(Dataset.from_dict({"prompt": prompts, "target": targets, **lengths}))


def digest(rows: "Dataset") -> str:
    """A hash of every prompt and reference."""
    found = hashlib.sha256()
    for batch in rows.select_columns(["prompt", "references"]).iter(batch_size=1000):
        found.update(json.dumps([batch["prompt"], batch["references"]]).encode())  # type: ignore[index]
    return found.hexdigest()


def encode(rows: "Dataset", encoding: Encoding, *, name: str, key: str) -> Pairs:
    """All pairs of a split. For memory-mapped rows, the tokens are cached beside the rows' file.

    Args:
        name: the split's, for the progress bar.
        key: hash of everything that the tokens depend on.
    """
    import datasets
    from datasets import Features, Value

    def tokenized(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        prompts = encoding.prompts(batch["prompt"])
        counts = [len(references) for references in batch["references"]]
        targets = encoding.targets([text for references in batch["references"] for text in references])
        repeated = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
        return {
            "prompt": repeated,
            "target": targets,
            "prompt_tokens": [len(ids) for ids in repeated],
            "target_tokens": [len(ids) for ids in targets],
        }

    count, ids = Value("int32"), datasets.List(Value("int32"))
    silent = datasets.are_progress_bars_disabled()
    if len(rows) >= _MANY:
        datasets.enable_progress_bars()
    try:
        mapped = rows.map(
            tokenized,
            batched=True,
            remove_columns=rows.column_names,
            features=Features({"prompt": ids, "target": ids, "prompt_tokens": count, "target_tokens": count}),
            new_fingerprint=key,
            desc=f"tokenizing {name}",
        )
    finally:
        if silent:
            datasets.disable_progress_bars()
    return Pairs(mapped)
