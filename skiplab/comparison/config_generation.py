"""The section `generation`: how settings choose their tokens when they are scored."""

from collections.abc import Mapping
from typing import Any

from skiplab.comparison.config_base import ConfigurationError
from skiplab.engine.generation import GenerationOptions


def options_of(values: Any) -> Any:
    """Options from plain values.

    Raises:
        ConfigurationError: an option is unknown or not supported, or a value is invalid.
    """
    if not isinstance(values, Mapping):
        return values
    if values.get("max_new_tokens") is not None:
        raise ConfigurationError(
            "generation.max_new_tokens must be set as max_new_tokens, which also limits the training data"
        )
    try:
        return GenerationOptions.of(**values)
    except ValueError as error:
        raise ConfigurationError(f"generation.{error}") from error


def check_greedy(options: GenerationOptions, what: str, otherwise: str = "") -> None:
    """Refuse options where only plain greedy decoding is defined.

    Args:
        what: subject and verb of the message, for example "plans are searched".
        otherwise: an alternative to add to the message.

    Raises:
        ConfigurationError: the options are not plain greedy decoding.
    """
    if not options.is_default:
        raise ConfigurationError(
            f"{what} only with greedy decoding; take generation=greedy without further options{otherwise}"
        )
