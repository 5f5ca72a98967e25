"""The default name of a run folder: the experiment and the command line's overrides. Imports no torch."""

import hashlib
import re
from collections.abc import Sequence

# Keys that may change when a run continues, so they are not part of the name; keys below them neither.
UNNAMED = (
    "experiment", "description", "run", "tracking", "workers", "cache_dir", "save_models", "checkpoint_every",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accumulate", "search.trials",
    "search.storage", "search.artifacts", "search.select", "search.profile_items",
)  # fmt: skip
# Bytes; file systems allow 255.
_LONGEST = 150


def run_name(experiment: str, overrides: Sequence[str]) -> str:
    """A folder name that needs no quotes in a shell or on Hydra's command line.

    If characters were dropped or the name is cut, a hash of the overrides keeps it unique.

    Args:
        overrides: of the configuration, as the command line has them; their order does not matter.
    """
    named: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        name = key.lstrip("+~")
        if not any(f"{name}.".startswith(f"{one}.") for one in UNNAMED):
            named[f"without-{name}" if key.startswith("~") else name] = value
    parts = [f"{key}={value}" if value else key for key, value in sorted(named.items())]
    shown = "+".join([experiment, *map(_plain, parts)])
    exact = all(map(_says_all, parts))
    if exact and len(shown.encode()) <= _LONGEST:
        return shown
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    return f"{shown[: _LONGEST - len(digest) - 1]}-{digest}"


def _plain(part: str) -> str:
    """An override without brackets and quotes, other characters as hyphens."""
    return re.sub(r"[^\w.@-]+", "-", re.sub(r"[\[\]{}\"' ]", "", part), flags=re.ASCII)


def _says_all(part: str) -> bool:
    """Whether the plain form is unambiguous: a plain value, or a list of plain values without hyphens."""
    return re.fullmatch(r"[\w.@-]+(=([\w.-]+|\[[\w.]+(,[\w.]+)*\]))?", part, re.ASCII) is not None
