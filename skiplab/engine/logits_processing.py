"""The logits processors of transformers for generation options, in the order in which `generate` applies them.

Shapes: B rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from skiplab.engine.generation import GenerationOptions


def processors(
    options: GenerationOptions,
    *,
    prompt_columns: int,
    padding_B: Tensor,
    eos_ids: Sequence[int],
    custom: Sequence[LogitsProcessor] = (),
) -> LogitsProcessorList:
    """The processors that `generate` would apply to the scores of these rows.

    Args:
        prompt_columns: width of the left-padded prompts.
        padding_B: padding columns per row.
        custom: further processors, applied before the warpers; each replaces an option's processor of the same class.
    """
    device = padding_B.device
    found: list[LogitsProcessor] = []
    if options.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty), padding_B))
    if options.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
    if options.bad_words_ids:
        ends = torch.tensor(list(eos_ids), device=device) if eos_ids else None
        found.append(NoBadWordsLogitsProcessor([list(word) for word in options.bad_words_ids], ends))
    if options.min_new_tokens and eos_ids:
        found.append(
            MinNewTokensLengthLogitsProcessor(
                prompt_columns, options.min_new_tokens, torch.tensor(list(eos_ids), device=device), device=str(device)
            )
        )
    found += _suppressing(options, prompt_columns, device)
    replaced = {type(one) for one in custom}
    found = [one for one in found if type(one) not in replaced]
    return LogitsProcessorList([*found, *custom, *warpers(options, device)])


def _suppressing(options: GenerationOptions, prompt_columns: int, device: torch.device) -> list[LogitsProcessor]:
    found: list[LogitsProcessor] = []
    if options.suppress_tokens:
        found.append(SuppressTokensLogitsProcessor(list(options.suppress_tokens), device=str(device)))
    if options.begin_suppress_tokens:
        first = list(options.begin_suppress_tokens)
        found.append(SuppressTokensAtBeginLogitsProcessor(first, prompt_columns, device=str(device)))
    return found


def warpers(options: GenerationOptions, device: torch.device) -> list[LogitsProcessor]:
    """The processors that shape the distribution for sampling; none in greedy decoding."""
    if not options.do_sample:
        return []
    found: list[LogitsProcessor] = []
    if options.temperature != 1:
        found.append(TemperatureLogitsWarper(float(options.temperature)))
    if options.top_k:
        found.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        found.append(TopPLogitsWarper(float(options.top_p)))
    if options.min_p is not None:
        found.append(MinPLogitsWarper(float(options.min_p)))
    if options.typical_p < 1:
        found.append(TypicalLogitsWarper(float(options.typical_p)))
    if options.epsilon_cutoff:
        found.append(EpsilonLogitsWarper(options.epsilon_cutoff))
    if options.eta_cutoff:
        found.append(EtaLogitsWarper(options.eta_cutoff, device=str(device)))
    return found
