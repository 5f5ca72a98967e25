"""The E2E NLG challenge's CSV files (Novikova et al., arXiv 1706.09254; CC BY-SA 4.0)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from skiplab.data.e2e_slots import parse_meaning, read_slots, slot_accuracy
from skiplab.data.grouping import grouped
from skiplab.data.hub import hub_splits
from skiplab.data.rows import Broken, DataError, check_encoding, read_rows, report_broken, text_fault
from skiplab.data.source import SlotSource, Source
from skiplab.data.tokenizers import byte_bpe_tokenizer, first_texts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

Examples = dict[str, list[str]]

_HUB = "tuetschek/e2e_nlg"
_FILES = "the E2E challenge's trainset.csv (or none), devset.csv and testset_w_refs.csv"


@final
@dataclass(frozen=True, kw_only=True)
class E2E(Source, SlotSource):
    """Reads `trainset.csv`, `devset.csv` and `testset_w_refs.csv` with columns `mr` and `ref`.

    All references of a meaning representation make one item. Without `trainset.csv` the model is
    trained on the dev split, less every `holdout`-th of its MRs, which then validate.

    Args:
        dir: the folder of the CSVs; None downloads the hub's copy.
        broken, encoding: as for `LocalFiles`; they apply to the CSVs.
        vocab_size: entries of the byte-level BPE trained on the training split.
        holdout: every `holdout`-th MR of the dev split is used for validation if the dev split trains.
    """

    dir: str | None = None
    vocab_size: int = 1024
    holdout: int = 10
    broken: Broken = "refuse"
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if self.vocab_size < 300:
            raise ValueError(f"data vocab_size must be at least 300 (256 bytes and specials), got {self.vocab_size}")
        if self.holdout < 2:
            raise ValueError(f"data holdout must be at least 2, got {self.holdout}")

    @property
    def name(self) -> str:
        trained = "train" if self.dir is None or (Path(self.dir) / "trainset.csv").exists() else "dev"
        return f"e2e (trained on the {trained} split)"

    def load(self) -> "DatasetDict":
        from datasets import Dataset, DatasetDict

        if self.dir is None:
            return grouped(DatasetDict(**_from_hub()))
        folder = Path(self.dir)
        dev, test = self._read(folder / "devset.csv"), self._read(folder / "testset_w_refs.csv")
        if (folder / "trainset.csv").exists():
            train, valid = self._read(folder / "trainset.csv"), dev
        else:
            train = {mr: refs for index, (mr, refs) in enumerate(dev.items()) if index % self.holdout}
            valid = {mr: refs for mr, refs in dev.items() if mr not in train}
        splits = {"train": train, "valid": valid, "test": test}
        for name, examples in splits.items():
            if not examples:
                raise ValueError(f"the {name} split of the E2E files in {folder} is empty")
        return DatasetDict(
            {
                name: Dataset.from_dict({"prompt": list(examples), "references": list(examples.values())})
                for name, examples in splits.items()
            }
        )

    def tokenizer(self, splits: "DatasetDict") -> "PreTrainedTokenizerFast":
        return byte_bpe_tokenizer(first_texts(splits["train"]), self.vocab_size)

    def item_scores(self, prompt: str, output: str) -> dict[str, float]:
        return {"slot_accuracy": slot_accuracy(parse_meaning(prompt), output)}

    def slots(self, prompt: str, output: str) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
        meaning = parse_meaning(prompt)
        return set(meaning.items()), read_slots(output, meaning)

    def _read(self, path: Path) -> Examples:
        """References by MR, in the file's order."""
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path.name} in {path.parent}: data.dir must be the folder of the E2E CSV files"
            )
        examples: Examples = {}
        bad: list[tuple[int, str]] = []
        for number, row in read_rows(path, self.encoding):
            if isinstance(row, str):
                bad.append((number, row))
                continue
            if missing := {"mr", "ref"} - set(row):
                raise DataError(
                    f"{path} lacks the column {' and '.join(sorted(missing))}: expected mr and ref, "
                    f"found {', '.join(row)}"
                )
            if fault := text_fault("mr", row["mr"]) or text_fault("ref", row["ref"]):
                bad.append((number, fault))
            else:
                examples.setdefault(row["mr"].strip(), []).append(row["ref"].strip())
        report_broken(path, bad, self.broken)
        return examples


def _from_hub() -> "dict[str, Dataset]":
    """One row per reference.

    Raises:
        DataError: the hub's copy cannot be loaded.
    """
    try:
        return hub_splits(_HUB, None, None, prompt="meaning_representation", target="human_reference")
    except DataError as error:
        raise DataError(
            f"{error.args[0].split(' Give a folder')[0]} Give the folder of {_FILES} as data.dir=DIR"
        ) from error
