"""Greedy decoding in left-padded batches: the one step loop.

Shapes: B rows, P prompt columns, T generated tokens, S key positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skiplab.backbone import Backbone, Context
from skiplab.batch import left_pad
from skiplab.forward import forward, prefix_columns
from skiplab.policy import ExitPolicy
from skiplab.schedule import layer_steps
from skiplab.steps import step_runner

OnStep = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class DecodeResult:
    """What a batch generated.

    Attributes:
        tokens_BT: generated ids, end-of-sequence included, `pad_id` behind it.
        length_B: generated tokens per row.
        depth_BT: layers that each token's step ran for the row; 0 behind the end.
        kv_bytes: bytes allocated for keys and values.
    """

    tokens_BT: Tensor
    length_B: Tensor
    depth_BT: Tensor
    kv_bytes: int

    def sequences(self) -> list[list[int]]:
        """Generated ids per row, without padding."""
        return [row[:length] for row, length in zip(self.tokens_BT.tolist(), self.length_B.tolist(), strict=True)]


@dataclass
class _Rows:
    """The rows still decoding. Rows that end leave, and the last ones take their places.

    Attributes:
        index_B: the row's place in the caller's batch.
        token_B: its newest token.
        position_B: the position of that token.
        limit_B: tokens it may generate.
        mask_B11S: additive mask over all columns that will be; None without padding.
    """

    index_B: Tensor
    token_B: Tensor
    position_B: Tensor
    limit_B: Tensor
    mask_B11S: Tensor | None

    def keep(self, source: list[int]) -> None:
        self.index_B, self.token_B = self.index_B[source], self.token_B[source]
        self.position_B, self.limit_B = self.position_B[source], self.limit_B[source]
        if self.mask_B11S is not None:
            self.mask_B11S = self.mask_B11S[source]


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
) -> DecodeResult:
    """Continue each prompt greedily under a policy.

    Args:
        prompts: token ids per row, at least one each.
        max_new_tokens: the limit, for all rows or one per row.
        eos_id: a row ends when it generates this token; None decodes to the limit.
        on_step: called as `on_step(step, index_B, logits_BV)` when a step's tokens are known, with
            the rows that took part.

    Raises:
        ValueError: a row is empty, or prompt and limit exceed the backbone's positions.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    _check_lengths(prompts, limits, backbone.max_positions)
    device = backbone.device
    prompt_BP, mask_BP = (tensor.to(device) for tensor in left_pad(prompts, pad_id))
    columns, steps = prompt_BP.shape[1], max(limits) - 1
    steps_L = layer_steps(policy.plan, backbone.num_layers, steps)
    # What later steps read: nothing of a layer that only the prompt pass runs.
    cache = backbone.new_cache(len(prompts), [prefix_columns(columns, run) if run > 1 else 0 for run in steps_L])
    tokens_BT = torch.full((len(prompts), max(limits)), pad_id, device=device)
    depth_BT = torch.zeros_like(tokens_BT, dtype=torch.int32)

    columns_L = [columns if run else 0 for run in steps_L]
    runner = step_runner(backbone, policy, cache, rows=len(prompts), columns=columns, steps=steps)
    h_BTD = forward(backbone, prompt_BP, mask_BP, columns_L=columns_L, cache=cache)
    logits_BV = backbone.head(h_BTD[:, -1])
    depth_B: Tensor | int = len(policy.plan(0))
    rows = _Rows(
        index_B=torch.arange(len(prompts), device=device),
        token_B=_greedy(logits_BV),
        position_B=mask_BP.sum(1) - 1,
        limit_B=torch.tensor(limits, device=device),
        mask_B11S=_decode_mask(mask_BP, steps, h_BTD.dtype),
    )
    for step in range(steps + 1):
        if step:
            position_B1 = rows.position_B[:, None]
            h_BTD = backbone.embed(rows.token_B[:, None], position_B1)
            cache.seek(columns + step - 1)
            mask = None if rows.mask_B11S is None else rows.mask_B11S[..., : columns + step]
            h_BTD, depth_B = runner.run(h_BTD, Context(mask, cache, backbone.rotary(position_B1)), step)
            logits_BV = backbone.head(h_BTD[:, -1])
            rows.token_B = _greedy(logits_BV)
        rows.position_B += 1
        tokens_BT[rows.index_B, step] = rows.token_B
        depth_BT[rows.index_B, step] = depth_B
        if on_step is not None:
            on_step(step, rows.index_B, logits_BV)
        ended_B = rows.limit_B == step + 1
        if eos_id is not None:
            ended_B |= rows.token_B == eos_id
        if source := _survivors(ended_B.tolist()):
            if len(source) < len(ended_B):
                rows.keep(source)
                cache.keep(source)
                runner.keep(source)
        else:
            break
    return DecodeResult(tokens_BT, (depth_BT > 0).sum(1), depth_BT, cache.nbytes)


def _greedy(logits_BV: Tensor) -> Tensor:
    """The likeliest token of each row, the first of equals. On a CPU `max` is several times as fast as `argmax`."""
    return logits_BV.max(-1).indices


def _decode_mask(mask_BP: Tensor, steps: int, dtype: torch.dtype) -> Tensor | None:
    """Additive mask (B, 1, 1, P + steps) that hides left padding; None where there is none."""
    if bool(mask_BP.all()):
        return None
    mask_BS = torch.zeros(len(mask_BP), mask_BP.shape[1] + steps, dtype=dtype, device=mask_BP.device)
    mask_BS[:, : mask_BP.shape[1]].masked_fill_(~mask_BP, -torch.inf)
    return mask_BS[:, None, None]


def _survivors(ended: list[bool]) -> list[int]:
    """Rows to keep: each stays where it is, and those past the new end fill the gaps."""
    alive = [row for row, end in enumerate(ended) if not end]
    count = len(alive)
    movers = [row for row in alive if row >= count]
    return [movers.pop() if ended[row] else row for row in range(count)]


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
