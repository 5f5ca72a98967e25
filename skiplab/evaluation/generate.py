"""Decode a split under a policy, and score the outputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F

from skiplab.data.module import Item, TextData
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE, Batch, left_pad
from skiplab.engine.decode import decode
from skiplab.engine.generation import own_generation_config_aside
from skiplab.engine.out_of_memory import Halving
from skiplab.engine.packed_linear import prepack
from skiplab.engine.parallel_forward import planned_logits
from skiplab.engine.policy import ExitPolicy, RowwisePolicy
from skiplab.evaluation.metric import Metric, Outputs, with_text
from skiplab.evaluation.significance import seed_item_interval
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.progress import Progress


@dataclass(frozen=True)
class Generation:
    """Outputs of a split, in the order of its items.

    Attributes:
        texts: outputs as text.
        tokens: outputs as ids, end-of-sequence included.
        depths: layers run per output token.
        decode_batch_size: rows decoded at a time, where memory held fewer than were asked for.
    """

    texts: list[str]
    tokens: list[list[int]]
    depths: list[list[int]]
    decode_batch_size: int | None = None

    @property
    def mean_depth(self) -> float:
        """Layers per token, over all tokens after the first of each output."""
        later = [depth for row in self.depths for depth in row[1:]]
        return sum(later) / len(later) if later else math.nan

    def depth_by_step(self, share: float = 0.05) -> list[float]:
        """Mean depth of the outputs that reach each generation step, from step 0.

        It ends at the last step that at least `share` of the outputs reach; later means would be noisy.
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
    ranks: Ranks = ALONE,
) -> Generation:
    """Decode all items in batches of like prompt length, shared by the ranks, with weights packed for them on a CPU.

    On out of memory it retries with smaller batches, with a warning.
    """
    backbone = prepack(backbone, rows=min(batch_size, len(items)))
    halving = Halving(batch_size, "decoding")

    def rows(batch: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        result = decode(
            backbone,
            policy,
            [items[index].prompt_ids for index in batch],
            max_new_tokens=data.max_new_tokens,
            eos_id=data.eos_id,
            pad_id=data.pad_id,
        )
        found = zip(result.sequences(), result.depth_BT.tolist(), strict=True)
        return [(row, depth[: len(row)]) for row, depth in found]

    def decoded(batch: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        return [row for _, found in halving(batch, rows) for row in found]

    order = sorted(range(len(items)), key=lambda index: len(items[index].prompt_ids))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    found = dict(zip(order, chain.from_iterable(ranks.share(batches, decoded, progress)), strict=True))
    tokens = [found[index][0] for index in range(len(items))]
    depths = [found[index][1] for index in range(len(items))]
    return Generation(data.encoding.texts(tokens), tokens, depths, _fewer(halving, batch_size, ranks))


def generate_hf(
    backbone: Backbone, data: TextData, items: Sequence[Item], *, batch_size: int, ranks: Ranks = ALONE
) -> Generation:
    """As `generate`, greedily by Hugging Face's `generate` on the same weights, in batches as the items come. What the
    checkpoint's own generation configuration asks for is left aside."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=data.max_new_tokens, do_sample=False, eos_token_id=data.eos_id, pad_token_id=data.pad_id
    )
    halving = Halving(batch_size, "in generate with")

    def generated(batch: Sequence[Item]) -> list[list[int]]:
        ids_BP, mask_BP = left_pad([item.prompt_ids for item in batch], data.pad_id)
        with own_generation_config_aside(backbone.model):
            out_BT = backbone.model.generate(  # type: ignore[operator]
                ids_BP.to(backbone.device), attention_mask=mask_BP.long().to(backbone.device), generation_config=config
            )
        rows = out_BT[:, ids_BP.shape[1] :].tolist()
        return [row[: row.index(data.eos_id) + 1] if data.eos_id in row else row for row in rows]

    def decoded(batch: Sequence[Item]) -> list[list[int]]:
        return [row for _, found in halving(batch, generated) for row in found]

    batches = [items[first : first + batch_size] for first in range(0, len(items), batch_size)]
    tokens = list(chain.from_iterable(ranks.share(batches, decoded)))
    depths = [[backbone.num_layers] * len(row) for row in tokens]
    return Generation(data.encoding.texts(tokens), tokens, depths, _fewer(halving, batch_size, ranks))


def _fewer(halving: Halving, asked: int, ranks: Ranks) -> int | None:
    """Rows at a time on the rank that had room for the fewest; None where all had room for what was asked."""
    rows = min(ranks.share(range(ranks.world_size), lambda _: halving.rows))
    return rows if rows < asked else None


def scorable(generation: Generation, items: Sequence[Item], full: Generation) -> Outputs:
    """Outputs as metrics take them."""
    return Outputs(
        prompts=[item.prompt for item in items],
        references=[with_text(item.references) for item in items],
        texts=generation.texts,
        tokens=generation.tokens,
        full_tokens=full.tokens,
    )


def quality(
    generation: Generation,
    items: Sequence[Item],
    full: Generation,
    metrics: Sequence[Metric],
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Quality figures with their intervals, and the item scores behind the means."""
    outputs = replace(scorable(generation, items, full), ranks=ranks)
    row: dict[str, Any] = {}
    by_item: dict[str, list[float]] = {}
    for metric in metrics:
        found = metric.measure(outputs)
        row |= found.row
        by_item |= found.by_item
    for name, values in by_item.items():
        row[name] = sum(values) / len(values)
        if (bounds := seed_item_interval([values])) is not None:
            row[f"{name}_ci95"] = list(bounds)
    return row, by_item


@torch.inference_mode()
def perplexity(backbone: Backbone, policy: ExitPolicy, batches: Sequence[Batch], ranks: Ranks = ALONE) -> float | None:
    """Teacher-forced perplexity of the references under the policy's plans; None if rows exit on their own.

    The ranks share the batches; what each gives is summed in their order, so that any number finds the same.
    """
    if isinstance(policy, RowwisePolicy):
        return None

    def summed(batch: Batch) -> tuple[float, int]:
        logits_BGV = planned_logits(backbone, policy, batch).float()
        loss = F.cross_entropy(
            logits_BGV.flatten(0, 1), batch.target_BG.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        return float(loss), int((batch.target_BG != IGNORE).sum())

    losses, counts = zip(*ranks.share(batches, summed), strict=True)
    return math.exp(sum(losses) / sum(counts))
