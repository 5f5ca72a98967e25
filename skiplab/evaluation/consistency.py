"""Losses of outputs relative to the full model's, and outputs that an adaptive policy cannot have changed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from skiplab.data.module import Item, TextData
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch, collate
from skiplab.engine.out_of_memory import Halving
from skiplab.engine.parallel_forward import layer_states, start
from skiplab.engine.policy import AdaptivePolicy
from skiplab.evaluation.generate import Generation, scorable
from skiplab.evaluation.metric import Metric
from skiplab.evaluation.metrics import rouge_l
from skiplab.utils.figures import Figure

Consistency = Literal["risk", "textual", "exact"]


def consistency_losses(
    own: Generation,
    full: Generation,
    items: Sequence[Item],
    metrics: Sequence[Metric],
    *,
    consistency: Consistency,
    metric: str,
) -> list[float]:
    """The loss of each item against the full model's output, in [0, 1] (CALM, arXiv 2207.07061, section 4).

    `risk`: how much worse `metric` is than the full model's; 0 if it is better (equation 11). `textual`: 1 - ROUGE-L
    between the two outputs (equation 10). `exact`: 1 if any token differs, else 0.

    Args:
        metric: a figure of item scores in [0, 1] that one of the metrics measures.
    """
    if consistency == "exact":
        return [float(a != b) for a, b in zip(own.tokens, full.tokens, strict=True)]
    if consistency == "textual":
        return [1 - score for score in rouge_l(own.texts, [[text] for text in full.texts])]
    measures, figure = _measuring(metrics, metric)
    after, before = (measures.measure(scorable(one, items, full)).by_item[metric] for one in (own, full))
    sign = 1 if figure.sense == "maximize" else -1
    return [max(0.0, sign * (full_score - own_score)) for own_score, full_score in zip(after, before, strict=True)]


def why_uninformative(full: Generation, items: Sequence[Item], metrics: Sequence[Metric], metric: str) -> str:
    """Why no quality guarantee can rest on a metric, given the full model's outputs; empty if one can.

    The loss in a metric that is the same for every output is 0 for any setting, and would certify the fastest one.
    A full model that is perfect on all items serves if blank outputs score less.
    """
    measures, figure = _measuring(metrics, metric)
    scores = measures.measure(scorable(full, items, full)).by_item[metric]
    if len(set(scores)) > 1:
        return ""
    best, worst = (1.0, 0.0) if figure.sense == "maximize" else (0.0, 1.0)
    if scores[0] == best:
        blank = replace(full, texts=[""] * len(items), tokens=[[-1] for _ in items])
        if any(score != best for score in measures.measure(scorable(blank, items, full)).by_item[metric]):
            return ""
        return f"{metric} is {best:g} for every output, blank ones included, so no loss in it can be seen"
    known = "the worst score" if scores[0] == worst else "a constant"
    return f"{metric} of the full model is {scores[0]:g}, {known}, on all {len(items)} calibration items"


@torch.inference_mode()
def unmoved(
    backbone: Backbone,
    policy: AdaptivePolicy,
    full: Generation,
    data: TextData,
    items: Sequence[Item],
    *,
    batch_size: int,
) -> list[bool]:
    """Which full-depth outputs a policy leaves unchanged, because no row would exit at any of their steps.

    This takes one parallel full-depth pass over prompts and outputs, and no decoding.

    Args:
        full: the backbone's own outputs on the items at full depth.
    """
    rows = list(zip(items, full.tokens, strict=True))

    def stay(members: Sequence[tuple[Item, list[int]]]) -> list[bool]:
        batch = collate([item.prompt_ids for item, _ in members], [tokens for _, tokens in members], data.pad_id)
        batch = Batch(*(tensor.to(backbone.device) for tensor in batch))
        below_BTD, _ = start(backbone, batch.input_BT, batch.prompt_mask_BP)
        states = [below_BTD, *layer_states(backbone, batch.input_BT, batch.prompt_mask_BP)]
        return (~_exited_rows(backbone, policy, batch, states)).tolist()

    return [one for _, found in Halving(batch_size, "checking exits of")(rows, stay) for one in found]


def _measuring(metrics: Sequence[Metric], name: str) -> tuple[Metric, Figure]:
    return next((one, figure) for one in metrics for figure in one.figures if figure.name == name)


def _exited_rows(backbone: Backbone, policy: AdaptivePolicy, batch: Batch, states: Sequence[Tensor]) -> Tensor:
    """Rows (B,) that a policy cuts short at any step, given the states of a pass at full depth."""
    exited_B = torch.zeros(len(batch.target_BG), dtype=torch.bool, device=backbone.device)
    for step in range(1, batch.decode_steps + 1):
        if len(policy.plan(step)) < backbone.num_layers:
            return torch.ones_like(exited_B)
        step_B = torch.full((len(exited_B),), step)
        real_B, column = batch.target_BG[:, step] != IGNORE, batch.prompt_columns - 1 + step
        for layer in (layer for layer in policy.plan(step)[:-1] if layer in policy.exit_layers):
            above_BD, below_BD = states[layer + 1][:, column], states[layer][:, column]
            exited_B |= real_B & policy.exits(above_BD, below_BD, layer=layer, step_B=step_B, head=backbone.head)
        if exited_B.all():
            break
    return exited_B
