"""Saved methods behind `mlflow models serve`, which finds this module by its name; nothing is unpickled."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from skiplab.export.saved_method import SavedMethod, load_method

if TYPE_CHECKING:
    from pandas import DataFrame

PROMPT = "prompt"
"""The column of a request."""
DEFAULT_BATCH_SIZE = 32
# What loading and decoding import; their own requirements follow.
_PACKAGES = ("mlflow", "torch", "transformers", "lightning", "safetensors", "filelock")


@final
class ServedMethod:
    """A method behind MLflow's interface."""

    def __init__(self, method: SavedMethod) -> None:
        self._method = method

    def predict(self, model_input: "DataFrame", params: Mapping[str, Any] | None = None) -> list[str]:
        """Continue the prompts of a table.

        Args:
            params: `batch_size`, prompts decoded at once.
        """
        batch_size = (params or {}).get("batch_size", DEFAULT_BATCH_SIZE)
        return self._method.generate(model_input[PROMPT].tolist(), batch_size=batch_size)


def _load_pyfunc(path: str) -> ServedMethod:
    """MLflow's entry: the method that `save_method` wrote to a folder."""
    return ServedMethod(load_method(path))


def requirements() -> list[str]:
    """The packages that serving needs, pinned to the versions of this process; a build's own suffix is left off."""
    return [f"{package}=={version(package).partition('+')[0]}" for package in _PACKAGES]


def code() -> list[Path]:
    """The packages whose code a served method brings along."""
    root = Path(__file__).parents[2]
    return [root / "skiplab", root / "baselines"]
