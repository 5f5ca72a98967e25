"""The name of a run's default folder: its experiment, and what the command line overrides. It imports no torch."""

import hashlib
import re
from collections.abc import Sequence

# What a run folder may go on with after a change, so that its name need not tell; keys below these included.
UNNAMED = (
    "experiment", "run", "tracking", "workers", "cache_dir", "save_models", "checkpoint_every", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.accumulate", "search.trials", "search.storage",
    "search.artifacts", "search.select", "search.profile_items",
)  # fmt: skip
# In bytes; file systems take 255.
_LONGEST = 150


def run_name(experiment: str, overrides: Sequence[str]) -> str:
    """A folder's name in characters that a shell and Hydra's own command line take without quotes.

    Where they leave something out, or the name would be too long, a hash of the overrides makes it unique.

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
    """Whether the plain form stands for no other override: a plain value, or a list of such without hyphens."""
    return re.fullmatch(r"[\w.@-]+(=([\w.-]+|\[[\w.]+(,[\w.]+)*\]))?", part, re.ASCII) is not None
