"""Hugging Face's decoding of the base, beside the settings of a comparison."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from skiplab.comparison.config import RunConfig
from skiplab.reporting.record import Entry

# Assisted decoding serves one row at a time. Each is named with its option of `GenerationConfig`, and what that counts.
_ASSISTED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "hf_prompt_lookup": ("prompt_lookup_num_tokens", "{} tokens"),
        "hf_assistant_early_exit": ("assistant_early_exit", "exit {}"),
    }
)


def hf_entries(config: RunConfig) -> dict[Entry, Mapping[str, Any]]:
    """Settings that Hugging Face decodes, each with options of `GenerationConfig`; none if nothing is timed."""
    if not config.benchmark.batch_sizes:
        return {}
    seed = config.seeds[0]
    # `generate` decodes greedily, whatever the settings do.
    setting = "full depth" if config.generation.is_default else "full depth greedy"
    found: dict[Entry, Mapping[str, Any]] = {Entry("hf_generate", setting, seed): {}}
    for name, values in (config.benchmark.assisted or {}).items():
        option, label = _ASSISTED[name]
        found |= {Entry(name, label.format(value), seed): {option: value} for value in values}
    return found


def decodes(options: Mapping[str, Any], batch_size: int) -> bool:
    """Whether `generate` takes batches of this size with the options."""
    return batch_size == 1 or not options
