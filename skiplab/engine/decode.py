"""Greedy decoding in left-padded batches: the one step loop.

Shapes: B rows, P prompt columns, D hidden size, V vocabulary.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import left_pad
from skiplab.engine.batch_run import BatchRun, DecodeResult, EagerRun, Prefilled
from skiplab.engine.cuda_graphs import GraphRun, StepGraphs
from skiplab.engine.kv_cache import KVStore
from skiplab.engine.parallel_forward import forward, prefix_columns
from skiplab.engine.policy import ExitPolicy
from skiplab.schedules.exit_schedule import layer_steps

OnStep = Callable[[int, Tensor, Tensor], None]


@torch.inference_mode()
def decode(
    backbone: Backbone,
    policy: ExitPolicy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: int | None,
    pad_id: int,
    on_step: OnStep | None = None,
    graphs: StepGraphs | None = None,
) -> DecodeResult:
    """Continue each prompt greedily under a policy.

    Args:
        prompts: token ids per row, at least one each.
        max_new_tokens: the limit, for all rows or one per row.
        eos_id: a row ends when it generates this token; None decodes to the limit.
        on_step: called as `on_step(step, index_B, logits_BV)` when a step's tokens are known, with
            the rows that took part; with graphs these are all, and the logits are overwritten by the next step.
        graphs: recorded steps of this backbone and policy; a batch that does not fit them is decoded without,
            with a warning.

    Raises:
        ValueError: a row is empty, prompt and limit exceed the backbone's positions, or the graphs are another
            backbone's or policy's.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    _check_lengths(prompts, limits, backbone.max_positions)
    run = _start(backbone, policy, prompts, limits, eos_id, pad_id, _fitting(graphs, backbone, policy, prompts, limits))
    for step in range(max(limits)):
        if step:
            run.advance(step)
        if on_step is not None:
            on_step(step, run.index_B, run.logits_BV)
        if run.ended(step):
            break
    return run.result()


def _start(
    backbone: Backbone,
    policy: ExitPolicy,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    eos_id: int | None,
    pad_id: int,
    graphs: StepGraphs | None,
) -> BatchRun:
    """The prompt pass."""
    prompt_BP, mask_BP = (tensor.to(backbone.device) for tensor in left_pad(prompts, pad_id))
    columns, longest = prompt_BP.shape[1], max(limits)
    steps_L = layer_steps(policy.plan, backbone.num_layers, longest - 1)

    def prefill(cache: KVStore) -> Prefilled:
        columns_L = [columns if run else 0 for run in steps_L]
        h_BTD = forward(backbone, prompt_BP, mask_BP, columns_L=columns_L, cache=cache)
        limit_B = torch.tensor(limits, device=backbone.device)
        return Prefilled(backbone.head(h_BTD[:, -1]), mask_BP, limit_B, longest, eos_id, pad_id)

    if graphs is not None:
        return GraphRun(graphs, prefill(graphs.prompt_cache()))
    # What later steps read: nothing of a layer that only the prompt pass runs.
    cache = backbone.new_cache(len(prompts), [prefix_columns(columns, run) if run > 1 else 0 for run in steps_L])
    return EagerRun(backbone, policy, cache, prefill(cache))


def _fitting(
    graphs: StepGraphs | None,
    backbone: Backbone,
    policy: ExitPolicy,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
) -> StepGraphs | None:
    if graphs is None:
        return None
    if graphs.backbone is not backbone or graphs.policy is not policy:
        raise ValueError("these graphs were made for another backbone or policy")
    rows, columns, longest = len(prompts), max(map(len, prompts)), max(limits)
    if graphs.fits(rows, columns, longest):
        return graphs
    warnings.warn(
        f"recorded steps are for {graphs.rows} rows, at most {graphs.prompt_columns} prompt columns and "
        f"{graphs.new_tokens} new tokens; a batch of {rows}, {columns} and {longest} is decoded without them",
        stacklevel=3,
    )
    return None


def _check_lengths(prompts: Sequence[Sequence[int]], limits: Sequence[int], max_positions: int) -> None:
    if len(limits) != len(prompts):
        raise ValueError(f"expected one max_new_tokens per prompt, got {len(limits)} for {len(prompts)} prompts")
    for row, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        if not prompt or limit < 1:
            raise ValueError(f"row {row} needs a prompt token and a token to generate, got {len(prompt)} and {limit}")
        if len(prompt) + limit - 1 > max_positions:
            raise ValueError(
                f"row {row} needs {len(prompt)} prompt + {limit - 1} generated positions, the backbone has "
                f"{max_positions}; shorten the prompt or max_new_tokens"
            )
