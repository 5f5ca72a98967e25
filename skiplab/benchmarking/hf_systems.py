"""Hugging Face's decoding, as systems for the benchmark."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from skiplab.benchmarking.timing import Clock, System
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import left_pad
from skiplab.engine.generation import own_generation_config_aside


def hf_generate_system(backbone: Backbone, **options: Any) -> System:
    """Hugging Face `generate` on the same weights.

    All rows run to the longest length of the batch, because rows cannot leave; only requested tokens count.

    Args:
        options: further options of `GenerationConfig`; `cache_implementation="static"` compiles itself on a GPU. In
            assisted decoding the first round of drafts counts as part of the prefill.
    """
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    class ReadClock(LogitsProcessor):
        def __init__(self, clock: Clock) -> None:
            self.clock = clock

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.clock.read()
            return scores

    def run(prompts: Sequence[Sequence[int]], lengths: Sequence[int], pad_id: int, clock: Clock) -> None:
        ids_BP, mask_BP = left_pad(prompts, pad_id)
        # An end-of-sequence token that no row can generate; None would mean the model's own.
        config = GenerationConfig(
            max_new_tokens=max(lengths),
            do_sample=False,
            eos_token_id=backbone.model.config.vocab_size,
            pad_token_id=pad_id,
            use_cache=True,
            **options,
        )
        inputs = {"inputs": ids_BP.to(backbone.device), "attention_mask": mask_BP.long().to(backbone.device)}
        processors = LogitsProcessorList([ReadClock(clock)])
        with own_generation_config_aside(backbone.model):
            backbone.model.generate(**inputs, generation_config=config, logits_processor=processors)  # type: ignore[operator]

    return run
