"""Hydra's configuration for tests. The chosen files, which do not change, are merged only once."""

from functools import cache
from importlib.resources import files

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

GROUPS = frozenset(entry.name for entry in files("experiments").iterdir() if entry.is_dir())


def composed(*overrides: str) -> DictConfig:
    """The configuration that Hydra composes from overrides.

    Hydra merges the files that overrides choose, and then applies the other overrides in their order.
    """
    parsed = [_parsed(one) for one in overrides]
    config = _merged(*(one for one, override in zip(overrides, parsed, strict=True) if _chooses(override))).copy()
    ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if not _chooses(one)], config)
    return config


@cache
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _chooses(override: Override) -> bool:
    """Whether an override chooses a file, or is Hydra's own."""
    key = override.key_or_group
    return key in GROUPS or override.package is not None or key.startswith("hydra.")


@cache
def _merged(*choices: str) -> DictConfig:
    with initialize_config_module("experiments", version_base="1.3"):
        return compose("config", overrides=list(choices))
