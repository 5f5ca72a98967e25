"""Python's standard library: from a function's source to the first paragraph of its docstring. Real data, offline.

The sources are those of the running interpreter (PSF licence), so the pairs depend on its version.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from skiplab.data.files import check_vocab_size
from skiplab.data.source import Source
from skiplab.data.tokenizers import byte_bpe_tokenizer, first_texts

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerFast

Function = ast.FunctionDef | ast.AsyncFunctionDef
# Folders that do not belong to the library itself.
_ASIDE = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"})


@final
@dataclass(frozen=True, kw_only=True)
class PythonDocs(Source):
    """Functions with docstrings. Each module is in one split, by the hash of its name: a tenth is valid, a tenth test.

    Args:
        longest_source, longest_doc: the most characters of source and docstring; longer pairs are left out.
        vocab_size: entries of the byte-level BPE trained on the training split, if the backbone has no tokenizer.
    """

    longest_source: int = 1200
    longest_doc: int = 300
    vocab_size: int = 2048

    def __post_init__(self) -> None:
        check_vocab_size(self.vocab_size)
        if self.longest_source < 100 or self.longest_doc < 20:
            raise ValueError(
                f"data longest_source must be at least 100 and longest_doc at least 20 characters, got "
                f"{self.longest_source} and {self.longest_doc}"
            )

    @property
    def name(self) -> str:
        return f"docstrings of Python {sys.version_info.major}.{sys.version_info.minor}'s standard library"

    def load(self) -> "DatasetDict":
        from datasets import Dataset, DatasetDict

        rows: dict[str, list[dict[str, object]]] = {"train": [], "valid": [], "test": []}
        seen: set[str] = set()
        root = Path(sysconfig.get_path("stdlib"))
        for path in sorted(root.rglob("*.py")):
            module = path.relative_to(root)
            if _ASIDE & set(module.parts):
                continue
            for source, doc in functions(path.read_text(encoding="utf-8", errors="replace")):
                if len(source) <= self.longest_source and len(doc) <= self.longest_doc and source not in seen:
                    seen.add(source)
                    rows[_split(module)].append({"prompt": source, "references": [doc]})
        return DatasetDict({split: Dataset.from_list(found) for split, found in rows.items()})

    def tokenizer(self, splits: "DatasetDict") -> "PreTrainedTokenizerFast":
        return byte_bpe_tokenizer(first_texts(splits["train"]), self.vocab_size)

    def item_scores(self, prompt: str, output: str) -> dict[str, float]:
        return {}


def functions(text: str) -> Iterator[tuple[str, str]]:
    """For each function of a module: its source without docstring, and the docstring's first paragraph on one line."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, Function) and len(node.body) > 1 and (doc := ast.get_docstring(node)):
            paragraph = " ".join(doc.split("\n\n")[0].split())
            if paragraph:
                del node.body[0]
                yield ast.unparse(node), paragraph


def _split(module: Path) -> str:
    bucket = int(hashlib.sha256(module.as_posix().encode()).hexdigest()[:8], 16) % 10
    return {0: "valid", 1: "test"}.get(bucket, "train")
