"""Decode a split under a policy, and score the outputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, cycle
from types import MappingProxyType
from typing import Any, Self

import torch

from skiplab.data.module import Item, TextData
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import PromptGroup, left_pad
from skiplab.engine.decode import decode_request
from skiplab.engine.generation import GREEDY, GenerationOptions, own_generation_config_aside
from skiplab.engine.out_of_memory import Halving
from skiplab.engine.packed_linear import prepack
from skiplab.engine.policy import ExitPolicy, RowwisePolicy
from skiplab.engine.request import Decoding
from skiplab.evaluation.metric import Metric, Outputs, with_text
from skiplab.evaluation.significance import seed_item_interval
from skiplab.evaluation.teacher_forced import policy_losses
from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.progress import Progress

_Unit = tuple[int, int]
"""An item, and the number of a draw."""


@dataclass(frozen=True)
class Generation:
    """Outputs of a split, in the order of its items.

    Attributes:
        texts: outputs as text.
        tokens: outputs as ids, end-of-sequence included.
        depths: layers run per output token.
        decode_batch_size: the batch size, if memory did not hold the requested one.
        further: with sampling, further outputs drawn for the same items.
    """

    texts: list[str]
    tokens: list[list[int]]
    depths: list[list[int]]
    decode_batch_size: int | None = None
    further: tuple["Generation", ...] = ()

    @property
    def draws(self) -> tuple["Generation", ...]:
        """This draw and all further ones."""
        return self, *self.further

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        further = {"further": [draw.plain() for draw in self.further]} if self.further else {}
        return {name: value for name, value in vars(self).items() if name != "further"} | further

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """From plain values."""
        further = tuple(cls.from_plain(draw) for draw in values.get("further", ()))
        return cls(**{**values, "further": further})

    @property
    def mean_depth(self) -> float:
        """Layers per token, over all tokens after the first of each output."""
        later = [depth for draw in self.draws for row in draw.depths for depth in row[1:]]
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
    options: GenerationOptions = GREEDY,
) -> Generation:
    """Decode all items in batches of similar prompt length, shared by the ranks; on a CPU with packed weights.

    On out of memory it warns and retries with smaller batches. An output does not depend on the batches or the number
    of ranks, only on its prompt and the seed of `options`.

    Args:
        options: `num_return_sequences` outputs are drawn per item.
    """
    count = options.num_return_sequences
    backbone = prepack(backbone, rows=min(batch_size, len(items) * count))
    halving = Halving(batch_size, "decoding")

    decoding = Decoding(
        options, data.max_new_tokens, data.eos_id, data.pad_id, tokenizer=data.tokenizer, device=backbone.device
    )

    def rows(batch: Sequence[_Unit]) -> list[tuple[list[int], list[int]]]:
        prompts, numbers = [items[index].prompt_ids for index, _ in batch], [number for _, number in batch]
        result = decode_request(backbone, policy, decoding.request(prompts, numbers=numbers))
        found = zip(result.sequences(), result.depth_BT.tolist(), strict=True)
        return [(row, depth[: len(row)]) for row, depth in found]

    def decoded(batch: Sequence[_Unit]) -> list[tuple[list[int], list[int]]]:
        return [row for _, found in halving(batch, rows) for row in found]

    units = [(index, number) for index in range(len(items)) for number in range(count)]
    order = sorted(units, key=lambda unit: len(items[unit[0]].prompt_ids))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    found = dict(zip(order, chain.from_iterable(ranks.share(batches, decoded, progress)), strict=True))
    fewer = _fewer(halving, batch_size, ranks)
    first, *further = [
        _of_draw([found[index, number] for index in range(len(items))], data, fewer) for number in range(count)
    ]
    return replace(first, further=tuple(further))


def _of_draw(rows: Sequence[tuple[list[int], list[int]]], data: TextData, fewer: int | None) -> Generation:
    tokens, depths = [row for row, _ in rows], [depth for _, depth in rows]
    return Generation(data.encoding.texts(tokens), tokens, depths, fewer)


def generate_hf(
    backbone: Backbone,
    data: TextData,
    items: Sequence[Item],
    *,
    batch_size: int,
    ranks: Ranks = ALONE,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Generation:
    """Decode greedily with Hugging Face's `generate` on the same weights, in batches in the order of the items. The
    checkpoint's own generation configuration is ignored.

    Args:
        options: further options of `GenerationConfig`.
    """
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=data.max_new_tokens, do_sample=False, eos_token_id=data.eos_id, pad_token_id=data.pad_id,
        **options,
    )  # fmt: skip
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
    """The smallest batch size of all ranks; None if all had memory for the requested one."""
    rows = min(ranks.share(range(ranks.world_size), lambda _: halving.rows))
    return rows if rows < asked else None


def scorable(generation: Generation, items: Sequence[Item], full: Generation) -> Outputs:
    """Outputs in the form that metrics take."""
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
    """Quality figures with their intervals, and the item scores behind the means.

    With several draws per item, an item's score is the mean over its draws, and intervals are over items. A corpus
    figure, and each bound of its interval, is the mean over draws of the whole split.
    """
    baselines = cycle(full.draws)
    found = [
        [metric.measure(replace(scorable(draw, items, next_full), ranks=ranks)) for metric in metrics]
        for draw, next_full in zip(generation.draws, baselines, strict=False)
    ]
    row: dict[str, Any] = {}
    by_item: dict[str, list[float]] = {}
    for of_metric in zip(*found, strict=True):
        row |= {name: _mean([one.row[name] for one in of_metric]) for name in of_metric[0].row}
        for name in of_metric[0].by_item:
            scores = zip(*(one.by_item[name] for one in of_metric), strict=True)
            by_item[name] = [sum(draws) / len(draws) for draws in scores]
    for name, values in by_item.items():
        row[name] = sum(values) / len(values)
        if (bounds := seed_item_interval([values])) is not None:
            row[f"{name}_ci95"] = list(bounds)
    return row, by_item


def _mean(values: Sequence[Any]) -> Any:
    """The mean of figures over draws: of lists, element by element; of values that are not numbers, the first."""
    if len(values) == 1 or isinstance(values[0], str | bool) or values[0] is None:
        return values[0]
    if isinstance(values[0], list):
        return [_mean(parts) for parts in zip(*values, strict=True)]
    return sum(values) / len(values)


@torch.inference_mode()
def perplexity(
    backbone: Backbone, policy: ExitPolicy, groups: Sequence[PromptGroup], ranks: Ranks = ALONE
) -> float | None:
    """Teacher-forced perplexity of the references under the policy's plans; None if rows decide when to exit.

    The ranks share the groups; losses are summed in the order of the groups, so that the result does not depend on
    the number of ranks.
    """
    if isinstance(policy, RowwisePolicy):
        return None

    def summed(group: PromptGroup) -> tuple[float, int]:
        losses_G, counts_G = policy_losses(backbone, policy, group)
        return float(losses_G.sum()), int(counts_G.sum())

    losses, counts = zip(*ranks.share(groups, summed), strict=True)
    return math.exp(sum(losses) / sum(counts))
