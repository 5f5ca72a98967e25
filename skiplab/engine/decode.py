"""Decoding in left-padded batches: the one step loop.

Shapes: B rows, P prompt columns, D hidden size, V vocabulary.
"""

import warnings
from collections.abc import Callable, Collection, Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch_run import BatchRun, DecodeResult, EagerRun, Prefilled
from skiplab.engine.kv_cache import KVStore
from skiplab.engine.parallel_forward import forward, prefix_columns
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.prompt_columns import batch_columns
from skiplab.engine.recorded_batches import RecordedBatches
from skiplab.engine.request import Request
from skiplab.engine.speculative import Speculative
from skiplab.engine.speculative_run import SpeculativeRun
from skiplab.schedules.exit_schedule import layer_steps

OnStep = Callable[[int, Tensor, Tensor], None]


class Step(NamedTuple):
    """A finished generation step.

    Attributes:
        step: 0 is the prompt pass.
        index_A: places in the batch of the rows that took part; all rows if steps are recorded.
        token_A: their tokens; meaningless for a row that had ended before.
        logits_AV: their raw scores; if steps are recorded, the next step overwrites them.
    """

    step: int
    index_A: Tensor
    token_A: Tensor
    logits_AV: Tensor


def decode(
    backbone: Backbone,
    policy: ExitPolicy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: int | None,
    pad_id: int,
    on_step: OnStep | None = None,
    graphs: RecordedBatches | None = None,
) -> DecodeResult:
    """Continue each prompt greedily under a policy.

    Args:
        prompts: token ids per row, at least one each.
        max_new_tokens: the limit, for all rows or one per row.
        eos_id: a row ends when it generates this token; None decodes to the limit.
        on_step: called after each step as `on_step(step, index_B, logits_BV)`, with the values of `Step`.
        graphs: as for `decode_steps`.

    Raises:
        ValueError: as `decode_steps`.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    request = Request(prompts, limits, () if eos_id is None else (eos_id,), pad_id)
    return decode_request(backbone, policy, request, on_step=on_step, graphs=graphs)


def decode_request(
    backbone: Backbone,
    policy: ExitPolicy,
    request: Request,
    *,
    on_step: OnStep | None = None,
    graphs: RecordedBatches | None = None,
) -> DecodeResult:
    """Run all steps of `decode_steps`; arguments as for `decode`."""
    steps = decode_steps(backbone, policy, request, graphs=graphs)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        if on_step is not None:
            on_step(step.step, step.index_A, step.logits_AV)


@torch.inference_mode()
def decode_steps(
    backbone: Backbone, policy: ExitPolicy, request: Request, *, graphs: RecordedBatches | None = None
) -> Generator[Step, Collection[int] | None, DecodeResult]:
    """Continue a batch's prompts under a policy, step by step. To end rows early, send their places in the batch.

    Args:
        graphs: recorded steps of this backbone and policy; a batch that does not fit them is decoded without them,
            with a warning.

    Raises:
        ValueError: a row is empty, prompt and limit exceed the backbone's positions, or the graphs are another
            backbone's or policy's.
    """
    request.check(backbone.max_positions)
    run = _start(backbone, policy, request, _fitting(graphs, backbone, policy, request))
    for step in range(request.longest):
        if step:
            run.advance(step)
        cancelled = yield Step(step, run.index_B, run.token_B, run.logits_BV)
        if cancelled:
            run.cancel(cancelled)
        if run.ended(step):
            break
    return run.result()


def _start(backbone: Backbone, policy: ExitPolicy, request: Request, graphs: RecordedBatches | None) -> BatchRun:
    """The prompt pass."""
    prompt_BP, mask_BP = (tensor.to(backbone.device) for tensor in request.left_padded())
    steps_L = layer_steps(policy.plan, backbone.num_layers, request.longest - 1)
    columns_L = batch_columns(policy.prompt, [min(run, 1) for run in steps_L], mask_BP)

    def prefill(cache: KVStore) -> Prefilled:
        h_BTD = forward(backbone, prompt_BP, mask_BP, columns_L=columns_L, cache=cache)
        return Prefilled(
            logits_BV=backbone.head(h_BTD[:, -1]),
            mask_BP=mask_BP,
            limit_B=torch.tensor(request.limits, device=backbone.device),
            longest=request.longest,
            eos_ids=request.eos_ids,
            pad_id=request.pad_id,
            choice=request.choice(prompt_BP),
        )

    if graphs is not None:
        return graphs.begin(prefill(graphs.prompt_cache()), request, prompt_BP)
    # A layer that only the prompt pass runs needs no cache.
    slots_L = [
        prefix_columns(columns.held, run) if run > 1 else 0 for columns, run in zip(columns_L, steps_L, strict=True)
    ]
    if isinstance(policy, Speculative):
        cache = backbone.new_cache(
            len(request.prompts), [slots and slots + policy.drafting.length for slots in slots_L]
        )
        return SpeculativeRun(backbone, policy, cache, prefill(cache), request, prompt_BP)
    cache = backbone.new_cache(len(request.prompts), slots_L)
    return EagerRun(backbone, policy, cache, prefill(cache))


def _fitting(
    graphs: RecordedBatches | None, backbone: Backbone, policy: ExitPolicy, request: Request
) -> RecordedBatches | None:
    if graphs is None:
        return None
    if graphs.backbone is not backbone or graphs.policy is not policy:
        raise ValueError("these graphs were recorded for another backbone or policy")
    rows, columns, longest = len(request.prompts), request.columns, request.longest
    if not graphs.fits(rows, columns, longest):
        warnings.warn(
            f"recorded steps are for {graphs.rows} rows, at most {graphs.prompt_columns} prompt columns and "
            f"{graphs.new_tokens} new tokens; a batch with {rows}, {columns} and {longest} is decoded without them",
            stacklevel=4,
        )
        return None
    if reason := graphs.lacks(request.choosing):
        warnings.warn(f"recorded steps cannot apply {reason}; the batch is decoded without them", stacklevel=4)
        return None
    return graphs
