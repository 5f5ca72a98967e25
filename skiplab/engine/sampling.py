"""Sampling of tokens from scores, fast for large vocabularies.

Shapes: B rows, V vocabulary, C blocks of the vocabulary, K candidates.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from skiplab.engine.generation import GenerationOptions
from skiplab.engine.logits_processing import warpers

_BLOCK = 256
_MIN_CANDIDATES = 128


def draw(scores_BV: Tensor, uniform_B1: Tensor) -> Tensor:
    """Sample one token per row from the softmax of its scores by inverse transform: first the block of the vocabulary,
    then the token in it.

    Args:
        uniform_B1: one random number per row in [0, 1), float64.
    """
    rows, vocabulary = scores_BV.shape
    parts = -(-vocabulary // _BLOCK)
    weight_BV = scores_BV.new_zeros(rows, parts * _BLOCK)
    torch.sub(scores_BV, scores_BV.max(-1, keepdim=True).values, out=weight_BV[:, :vocabulary]).exp_()
    weight_BCV = weight_BV.view(rows, parts, _BLOCK)
    upto_BC = weight_BCV.sum(-1).double().cumsum(-1)
    target_B1 = _below(uniform_B1 * upto_BC[:, -1:], upto_BC[:, -1:])
    part_B1 = torch.searchsorted(upto_BC, target_B1, right=True)
    before_B1 = torch.where(part_B1 > 0, upto_BC.gather(1, (part_B1 - 1).clamp(min=0)), 0.0)
    inner_BV = weight_BCV.gather(1, part_B1[..., None].expand(-1, -1, _BLOCK))[:, 0].double().cumsum(-1)
    left_B1 = _below((target_B1 - before_B1).clamp(min=0), inner_BV[:, -1:])
    return (part_B1 * _BLOCK + torch.searchsorted(inner_BV, left_B1, right=True))[:, 0]


def _below(target_B1: Tensor, total_B1: Tensor) -> Tensor:
    """Clamp the target below the total, which rounding may reach, so that a token of probability 0 is never drawn."""
    return torch.minimum(target_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))


def sample(scores_BV: Tensor, options: GenerationOptions, uniform_B1: Tensor) -> Tensor:
    """Sample one token per row from the scores after the options' warpers.

    On a CPU, top-k and top-p are applied to only the largest scores if these are certain to include every token that
    is kept, because sorting the whole vocabulary takes longer than a small model's decode step.

    Args:
        uniform_B1: as for `draw`.
    """
    few = options.top_k or options.top_p < 1
    plain = options.min_p is None and options.typical_p == 1 and not options.epsilon_cutoff and not options.eta_cutoff
    if not (few and plain) or scores_BV.device.type != "cpu" or scores_BV.shape[1] < 4 * _MIN_CANDIDATES:
        return _sample_with_warpers(scores_BV, options, uniform_B1)
    count = max(2 * options.top_k, _MIN_CANDIDATES)
    if count > scores_BV.shape[1]:
        return _sample_with_warpers(scores_BV, options, uniform_B1)
    scaled_BV = scores_BV / options.temperature
    top_BK, index_BK = scaled_BV.topk(count, -1)
    kept_BK, certain_B = _kept(scaled_BV, top_BK, options)
    # In the order of the vocabulary, in which `draw` scans: the same random number then gives the same token.
    index_BK, order_BK = index_BK.sort(-1)
    kept_BK, top_BK = kept_BK.gather(1, order_BK), top_BK.gather(1, order_BK)
    place_B = draw(top_BK.masked_fill(~kept_BK, -torch.inf), uniform_B1)
    token_B = index_BK.gather(1, place_B[:, None])[:, 0]
    if not bool(certain_B.all()):
        token_B[~certain_B] = _sample_with_warpers(scores_BV[~certain_B], options, uniform_B1[~certain_B])
    return token_B


def _kept(scaled_BV: Tensor, top_BK: Tensor, options: GenerationOptions) -> tuple[Tensor, Tensor]:
    """Which of the largest scores (B, K), in descending order, top-k and top-p keep; and the rows (B,) for which it is
    certain that they keep no other tokens."""
    count = top_BK.shape[1]
    kept_BK = torch.ones_like(top_BK, dtype=torch.bool)
    certain_B = torch.ones(len(top_BK), dtype=torch.bool)
    if options.top_k:
        # Ties with the last one are kept.
        kept_BK = top_BK >= top_BK[:, options.top_k - 1 : options.top_k]
        certain_B = ~kept_BK[:, -1]
        weight_BK = (top_BK - top_BK[:, :1]).exp().masked_fill(~kept_BK, 0)
        total_B1 = weight_BK.sum(-1, keepdim=True)
    else:
        weight_BK = (top_BK - top_BK[:, :1]).exp()
        total_B1 = torch.sub(scaled_BV, top_BK[:, :1]).exp_().sum(-1, keepdim=True)
    if options.top_p < 1:
        # The probability above a token in descending order; tokens are kept while it is below `top_p`.
        above_BK = (weight_BK.cumsum(-1) - weight_BK) / total_B1
        nucleus_BK = above_BK < options.top_p
        nucleus_BK[:, 0] = True
        if not options.top_k:
            certain_B = ~nucleus_BK[:, count - 1]
        kept_BK = kept_BK & nucleus_BK
    return kept_BK, certain_B


def _sample_with_warpers(scores_BV: Tensor, options: GenerationOptions, uniform_B1: Tensor) -> Tensor:
    shaped = LogitsProcessorList(warpers(options, scores_BV.device))
    # Warpers ignore the token ids.
    return draw(shaped(None, scores_BV), uniform_B1)  # type: ignore[arg-type]
