"""The section `generation`: how settings choose their tokens when they are scored."""

from collections.abc import Mapping
from typing import Any

from skiplab.comparison.config_base import ConfigurationError
from skiplab.engine.generation import GenerationOptions


def options_of(values: Any) -> Any:
    """Options from plain values.

    Raises:
        ConfigurationError: one is unknown, not served or of a bad value.
    """
    if not isinstance(values, Mapping):
        return values
    if values.get("max_new_tokens") is not None:
        raise ConfigurationError("generation.max_new_tokens is given as max_new_tokens, for training data too")
    try:
        return GenerationOptions.of(**values)
    except ValueError as error:
        raise ConfigurationError(f"generation.{error}") from error


def check_greedy(options: GenerationOptions, what: str, otherwise: str = "") -> None:
    """Refuse options where only plain greedy decoding is defined.

    Args:
        what: needs it.
        otherwise: what else can be done, for the message.

    Raises:
        ConfigurationError: the options are others.
    """
    if not options.is_default:
        raise ConfigurationError(
            f"{what} by greedy decoding alone; take generation=greedy without further options{otherwise}"
        )
