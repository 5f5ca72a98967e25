"""Decode a split under a policy, and score what came out."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from skiplab import metrics
from skiplab.backbone import Backbone
from skiplab.batch import IGNORE, Batch, collate, left_pad
from skiplab.benchmark import Progress
from skiplab.data.module import Item, TextData
from skiplab.decode import decode
from skiplab.forward import layer_states, planned_logits, start
from skiplab.policy import AdaptivePolicy, ExitPolicy, RowwisePolicy


@dataclass(frozen=True)
class Generation:
    """Outputs of a split, in the order of its items.

    Attributes:
        texts: outputs as text.
        tokens: outputs as ids, end-of-sequence included.
        depths: layers run per output token.
    """

    texts: list[str]
    tokens: list[list[int]]
    depths: list[list[int]]

    @property
    def mean_depth(self) -> float:
        """Layers per token, over all tokens after the first of each output."""
        later = [depth for row in self.depths for depth in row[1:]]
        return sum(later) / len(later) if later else math.nan

    def depth_by_step(self, share: float = 0.05) -> list[float]:
        """Mean depth of the outputs that reach each generation step, from step 0.

        It ends at the last step that at least `share` of the outputs reach: beyond, means are of few.
        """
        longest = max(map(len, self.depths))
        reached = [[row[step] for row in self.depths if len(row) > step] for step in range(longest)]
        return [sum(depths) / len(depths) for depths in reached if len(depths) >= share * len(self.depths)]


def generate(
    backbone: Backbone,
    policy: ExitPolicy,
    data: TextData,
    items: Sequence[Item],
    *,
    batch_size: int,
    progress: Progress = iter,
) -> Generation:
    """Decode all items in batches of like prompt length."""
    order = sorted(range(len(items)), key=lambda index: len(items[index].prompt_ids))
    tokens: list[list[int]] = [[] for _ in items]
    depths: list[list[int]] = [[] for _ in items]
    for first in progress(range(0, len(order), batch_size)):
        batch = order[first : first + batch_size]
        result = decode(
            backbone,
            policy,
            [items[index].prompt_ids for index in batch],
            max_new_tokens=data.max_new_tokens,
            eos_id=data.eos_id,
            pad_id=data.pad_id,
        )
        for index, row, depth in zip(batch, result.sequences(), result.depth_BT.tolist(), strict=True):
            tokens[index] = row
            depths[index] = depth[: len(row)]
    return Generation(_texts(tokens, data), tokens, depths)


@torch.inference_mode()
def unmoved(
    backbone: Backbone,
    policies: Sequence[AdaptivePolicy],
    full: Generation,
    data: TextData,
    items: Sequence[Item],
    *,
    batch_size: int,
) -> list[list[bool]]:
    """For each policy, which of the full-depth outputs it leaves as they are, because it takes no exit in them.

    One parallel pass over prompts and outputs at full depth serves all policies.

    Args:
        full: the backbone's own outputs on the items at full depth.
    """
    found: list[list[bool]] = [[] for _ in policies]
    for first in range(0, len(items), batch_size):
        members = slice(first, first + batch_size)
        batch = collate([item.prompt_ids for item in items[members]], full.tokens[members], data.pad_id)
        batch = Batch(*(tensor.to(backbone.device) for tensor in batch))
        below_BTD, _ = start(backbone, batch.input_BT, batch.prompt_mask_BP)
        states = [below_BTD, *layer_states(backbone, batch.input_BT, batch.prompt_mask_BP)]
        for kept, policy in zip(found, policies, strict=True):
            kept += (~_exited_rows(backbone, policy, batch, states)).tolist()
    return found


def _exited_rows(backbone: Backbone, policy: AdaptivePolicy, batch: Batch, states: Sequence[Tensor]) -> Tensor:
    """Rows (B,) that a policy lets exit at any step, given the states of a pass at full depth."""
    exited_B = torch.zeros(len(batch.target_BG), dtype=torch.bool, device=backbone.device)
    for step in range(1, batch.decode_steps + 1):
        real_B, column = batch.target_BG[:, step] != IGNORE, batch.prompt_columns - 1 + step
        for layer in (layer for layer in policy.plan(step)[:-1] if layer in policy.exit_layers):
            above_BD, below_BD = states[layer + 1][:, column], states[layer][:, column]
            exited_B |= real_B & policy.exits(above_BD, below_BD, step=step, head=backbone.head)
        if exited_B.all():
            break
    return exited_B


def generate_hf(backbone: Backbone, data: TextData, items: Sequence[Item], *, batch_size: int) -> Generation:
    """As `generate`, by Hugging Face's `generate` on the same weights."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=data.max_new_tokens, do_sample=False, eos_token_id=data.eos_id, pad_token_id=data.pad_id
    )
    tokens: list[list[int]] = []
    for first in range(0, len(items), batch_size):
        ids_BP, mask_BP = left_pad([item.prompt_ids for item in items[first : first + batch_size]], data.pad_id)
        out_BT = backbone.model.generate(  # type: ignore[operator]
            ids_BP.to(backbone.device), attention_mask=mask_BP.long().to(backbone.device), generation_config=config
        )
        for row in out_BT[:, ids_BP.shape[1] :].tolist():
            tokens.append(row[: row.index(data.eos_id) + 1] if data.eos_id in row else row)
    return Generation(_texts(tokens, data), tokens, [[backbone.num_layers] * len(row) for row in tokens])


def quality(
    generation: Generation, items: Sequence[Item], data: TextData, full: Generation
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Quality figures with their intervals, and the item scores behind the means."""
    references = [item.references for item in items]
    score, interval = metrics.bleu(generation.texts, references)
    row: dict[str, Any] = {"bleu": score, "bleu_ci95": list(interval)}
    by_item = {
        "rouge_l": metrics.rouge_l(generation.texts, references),
        "agreement": metrics.agreement(generation.tokens, full.tokens),
    }
    scored = [data.source.item_scores(item.prompt, text) for item, text in zip(items, generation.texts, strict=True)]
    by_item |= {name: [scores[name] for scores in scored] for name in scored[0]}
    for name, values in by_item.items():
        row[name] = sum(values) / len(values)
        if (bounds := metrics.mean_interval(values)) is not None:
            row[f"{name}_ci95"] = list(bounds)
    return row, by_item


Consistency = Literal["risk", "textual", "exact"]


def consistency_losses(
    own: Generation, full: Generation, items: Sequence[Item], data: TextData, *, consistency: Consistency, metric: str
) -> list[float]:
    """What each item loses against the full model's output, in [0, 1] (CALM, arXiv 2207.07061, section 4).

    `risk`: how far `metric` falls below the full model's, no fall counting 0 (equation 11). `textual`: one
    less ROUGE-L between the two outputs (equation 10). `exact`: 1 where a token differs, else 0.
    """
    if consistency == "exact":
        return [float(a != b) for a, b in zip(own.tokens, full.tokens, strict=True)]
    if consistency == "textual":
        return [1 - score for score in metrics.rouge_l(own.texts, [[text] for text in full.texts])]
    scores = [item_scores(generation, items, data, metric) for generation in (own, full)]
    return [max(0.0, after - before) for before, after in zip(*scores, strict=True)]


def item_scores(generation: Generation, items: Sequence[Item], data: TextData, metric: str) -> list[float]:
    """`rouge_l`, or a score of the task's own, of each output."""
    if metric == "rouge_l":
        return metrics.rouge_l(generation.texts, [item.references for item in items])
    texts = zip(items, generation.texts, strict=True)
    return [data.source.item_scores(item.prompt, text)[metric] for item, text in texts]


@torch.inference_mode()
def perplexity(backbone: Backbone, policy: ExitPolicy, batches: Iterable[Batch]) -> float | None:
    """Teacher-forced perplexity of the references under the policy's plans; None if rows exit on their own."""
    from torchmetrics.text import Perplexity

    if isinstance(policy, RowwisePolicy):
        return None
    metric = Perplexity(ignore_index=IGNORE).to(backbone.device)
    for batch in batches:
        metric.update(planned_logits(backbone, policy, batch), batch.target_BG)
    return float(metric.compute())


def _texts(tokens: list[list[int]], data: TextData) -> list[str]:
    return [text.strip() for text in data.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
