"""Saved methods behind `mlflow models serve`, which finds this module by its name; nothing is unpickled."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, final

from skiplab.export.saved_method import SavedMethod, load_method

if TYPE_CHECKING:
    from pandas import DataFrame

PROMPT = "prompt"
"""The column of a request."""
_LONGS = ("max_new_tokens", "min_new_tokens", "top_k", "no_repeat_ngram_size", "seed", "num_return_sequences")
_DOUBLES = ("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty")
_LONG_LISTS = ("eos_token_id", "suppress_tokens", "begin_suppress_tokens")
# Imported by loading and decoding; pip resolves their own requirements.
_PACKAGES = ("mlflow", "torch", "transformers", "lightning", "safetensors", "filelock")


class Param(NamedTuple):
    """A parameter of a request.

    Attributes:
        type: MLflow's name of its type.
        default: None or an empty list keeps the folder's option.
        several: whether it is a list.
    """

    type: str
    default: Any = None
    several: bool = False


PARAMS: Mapping[str, Param] = MappingProxyType(
    {
        "batch_size": Param("long", 32),
        "do_sample": Param("boolean"),
        **dict.fromkeys(_LONGS, Param("long")),
        **dict.fromkeys(_DOUBLES, Param("double")),
        **dict.fromkeys(_LONG_LISTS, Param("long", [], several=True)),
        "stop_strings": Param("string", [], several=True),
    }
)
"""What a request may set: rows decoded at once, and generation options except nested lists, which MLflow lacks."""


@final
class ServedMethod:
    """A method behind MLflow's interface."""

    def __init__(self, method: SavedMethod) -> None:
        self._method = method

    def predict(self, model_input: "DataFrame", params: Mapping[str, Any] | None = None) -> list[str]:
        """Continue the prompts of a table; several outputs of a prompt stand behind each other.

        Args:
            params: of `PARAMS`.

        Raises:
            ValueError: as `SavedMethod.generate`.
        """
        options = {name: value for name, value in (params or {}).items() if value is not None and value != []}
        return self._method.generate(model_input[PROMPT].tolist(), **options)


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
