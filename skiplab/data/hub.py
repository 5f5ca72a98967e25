"""Tasks from the Hugging Face hub, or from local copies of their files."""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from skiplab.data.files import check_vocab_size, divide, read_folder
from skiplab.data.grouping import grouped
from skiplab.data.rows import Broken, DataError, check_encoding
from skiplab.data.source import Source
from skiplab.data.tokenizers import byte_bpe_tokenizer, first_texts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

_NAMES = MappingProxyType({"train": ("train",), "valid": ("validation", "valid", "dev"), "test": ("test",)})


@final
@dataclass(frozen=True, kw_only=True)
class HubTask(Source):
    """A data set of the hub.

    Args:
        hub: its name on the hub.
        config: its configuration; None is the default one.
        revision: commit, tag or branch; None is the newest.
        prompt, target: names of the columns.
        strip: suffix removed from prompts, because the template adds it.
        dir: a folder with local copies, as for `LocalFiles`; None downloads from the hub.
        broken, encoding: as for `LocalFiles`; they apply to local copies.
        vocab_size: as for `LocalFiles`.
    """

    hub: str
    prompt: str
    target: str
    config: str | None = None
    revision: str | None = None
    strip: str = ""
    dir: str | None = None
    broken: Broken = "refuse"
    encoding: str = "utf-8"
    vocab_size: int = 8192

    def __post_init__(self) -> None:
        check_vocab_size(self.vocab_size)
        check_encoding(self.encoding)

    @property
    def name(self) -> str:
        return self.hub if self.config is None else f"{self.hub} {self.config}"

    def load(self) -> "DatasetDict":
        if self.dir is not None:
            splits = read_folder(Path(self.dir), self.prompt, self.target, self.broken, self.encoding)
        else:
            splits = divide(hub_splits(self.hub, self.config, self.revision, prompt=self.prompt, target=self.target))
        return grouped(splits.map(_stripped, fn_kwargs={"strip": self.strip}) if self.strip else splits)

    def tokenizer(self, splits: "DatasetDict") -> "PreTrainedTokenizerFast":
        return byte_bpe_tokenizer(first_texts(splits["train"]), self.vocab_size)

    def item_scores(self, prompt: str, output: str) -> dict[str, float]:
        return {}


def hub_splits(
    name: str, config: str | None, revision: str | None, *, prompt: str, target: str
) -> dict[str, "Dataset"]:
    """The splits of a data set on the hub, with columns `prompt` and `references`.

    Raises:
        DataError: the data set cannot be loaded, or a column is missing.
    """
    from datasets import load_dataset

    try:
        loaded: Any = load_dataset(name, config, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot get {name} from the Hugging Face hub: {str(error).strip().splitlines()[0]} Give a folder with "
            f"train, valid and test files (.jsonl, .csv or .parquet, columns {prompt} and {target}) as data.dir=DIR"
        ) from error
    found = {}
    for split, names in _NAMES.items():
        if rows := next((loaded[key] for key in names if key in loaded), None):
            for option, column in (("prompt", prompt), ("target", target)):
                if column not in rows.column_names:
                    columns = ", ".join(rows.column_names)
                    raise DataError(f"{name} has no column {column!r}; take one of {columns} as data.{option}")
            found[split] = rows.map(
                _renamed,
                batched=True,
                remove_columns=rows.column_names,
                fn_kwargs={"prompt": prompt, "target": target},
            )
    if "train" not in found:
        raise DataError(f"{name} has no split called train; it has {', '.join(loaded)}")
    return found


def _renamed(batch: dict[str, list[str]], prompt: str, target: str) -> dict[str, list[Any]]:
    pairs = [
        (source.strip(), text.strip())
        for source, text in zip(batch[prompt], batch[target], strict=True)
        if (source or "").strip() and (text or "").strip()
    ]
    return {"prompt": [source for source, _ in pairs], "references": [[text] for _, text in pairs]}


def _stripped(row: dict[str, Any], strip: str) -> dict[str, Any]:
    return {"prompt": row["prompt"].removesuffix(strip).strip()}
