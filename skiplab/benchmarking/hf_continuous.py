"""Hugging Face's continuous batching, for comparison."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from skiplab.benchmarking.arrivals import Arrival
from skiplab.engine.backbone import Backbone

# Positions per page of its cache.
_PAGE = 16
_WAIT_SECONDS = 600


def hf_continuous_rate(
    backbone: Backbone, stream: Sequence[Arrival], prompt: Callable[[int], Sequence[int]], *, slots: int
) -> tuple[float, float]:
    """Requests and tokens per second at full depth when all requests arrive at once.

    Args:
        slots: how many requests of maximal length its cache holds.

    Raises:
        TimeoutError: a request had no result within ten minutes.
    """
    # A copy, because transformers changes the model's attention implementation.
    model: Any = copy.deepcopy(backbone.model)
    longest = max(one.prompt_tokens + one.new_tokens for one in stream)
    pages = slots * -(-longest // _PAGE)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=longest),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=_PAGE, num_blocks=pages, max_batch_tokens=256, max_requests_per_batch=slots
        ),
    )
    manager.start()
    try:
        _serve(manager, stream[:2], prompt)
        began = time.perf_counter()
        tokens = _serve(manager, stream, prompt)
        seconds = time.perf_counter() - began
    finally:
        manager.stop(block=True)
    return len(stream) / seconds, tokens / seconds


def _serve(manager: Any, stream: Sequence[Arrival], prompt: Callable[[int], Sequence[int]]) -> int:
    """Serve a stream's requests; returns the number of generated tokens."""
    names = [manager.add_request(list(prompt(one.prompt_tokens)), max_new_tokens=one.new_tokens) for one in stream]
    tokens = 0
    for _ in names:
        result = manager.get_result(timeout=_WAIT_SECONDS)
        if result is None:
            raise TimeoutError(f"Hugging Face's continuous batching gave no result within {_WAIT_SECONDS} s")
        tokens += len(result.generated_tokens)
    return tokens
