"""Sampling of tokens from scores, fast for large vocabularies, as a function of scores and a random key.

Tokens are drawn by the Gumbel-max trick. With one key, two similar distributions mostly give the same token: with flat
Gumbel noise at least with probability `(1 - d) / (1 + d)`, where `d` is their total variation distance (Daliri et al.,
arXiv 2408.07978). So a drafter can guess a token that the full model will sample.

Shapes: B rows, V vocabulary, C blocks of the vocabulary, K candidates.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from skiplab.engine.generation import GenerationOptions
from skiplab.engine.logits_processing import warpers

_BLOCK = 256
_MIN_CANDIDATES = 128


def gumbel(key_B1: Tensor, index_N: Tensor) -> Tensor:
    """Standard Gumbel noise (B, N), float32: of the numbers at these indices in the SplitMix64 sequences that start at
    the keys (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        key_B1: int64.
        index_N: int64, (N,) or (B, N).
    """
    bits_BN = key_B1 + _signed(0x9E3779B97F4A7C15) * index_N
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits_BN = (bits_BN ^ _shifted(bits_BN, shift)) * _signed(factor)
    bits_BN = bits_BN ^ _shifted(bits_BN, 31)
    uniform_BN = (_shifted(bits_BN, 11).float() * 2**-53).clamp_(2**-54, 1 - 2**-24)
    return uniform_BN.neg_().log1p_().neg_().log_().neg_()


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right as unsigned integers."""
    return (bits >> by) & (2 ** (64 - by) - 1)


def _signed(bits: int) -> int:
    """The int64 of the same bits."""
    return bits - 2**64 if bits >= 2**63 else bits


def draw(scores_BV: Tensor, key_B1: Tensor) -> Tensor:
    """Sample one token per row from the softmax of its scores: first the block of the vocabulary, then the token in it,
    so that few tokens need noise.

    Args:
        key_B1: one random int64 per row.
    """
    rows, vocabulary = scores_BV.shape
    parts = -(-vocabulary // _BLOCK)
    weight_BV = scores_BV.new_zeros(rows, parts * _BLOCK)
    torch.sub(scores_BV, scores_BV.max(-1, keepdim=True).values, out=weight_BV[:, :vocabulary]).exp_()
    weight_BCV = weight_BV.view(rows, parts, _BLOCK)
    block_B1 = _block(weight_BCV.sum(-1), key_B1)
    inner_BV = weight_BCV.gather(1, block_B1[..., None].expand(-1, -1, _BLOCK))[:, 0]
    index_BV = block_B1 * _BLOCK + torch.arange(_BLOCK, device=scores_BV.device)
    place_B1 = (inner_BV.log() + gumbel(key_B1, index_BV)).max(-1, keepdim=True).indices
    return index_BV.gather(1, place_B1)[:, 0]


def _draw_among(scores_BK: Tensor, index_BK: Tensor, vocabulary: int, key_B1: Tensor) -> Tensor:
    """What `draw` gives if all other tokens of the vocabulary have a score of minus infinity.

    Args:
        index_BK: the candidates' tokens.
    """
    weight_BK = (scores_BK - scores_BK.max(-1, keepdim=True).values).exp()
    weight_BC = weight_BK.new_zeros(len(weight_BK), -(-vocabulary // _BLOCK))
    block_B1 = _block(weight_BC.scatter_add_(1, index_BK // _BLOCK, weight_BK), key_B1)
    inner_BK = weight_BK.log().masked_fill(index_BK // _BLOCK != block_B1, -torch.inf)
    place_B1 = (inner_BK + gumbel(key_B1, index_BK)).max(-1, keepdim=True).indices
    return index_BK.gather(1, place_B1)[:, 0]


def _block(weight_BC: Tensor, key_B1: Tensor) -> Tensor:
    """A block (B, 1) with probability proportional to its weight."""
    # Negative, so that no token has the noise of a block.
    index_C = -1 - torch.arange(weight_BC.shape[1], device=weight_BC.device)
    return (weight_BC.log() + gumbel(key_B1, index_C)).max(-1, keepdim=True).indices


def sample(scores_BV: Tensor, options: GenerationOptions, key_B1: Tensor) -> Tensor:
    """Sample one token per row from the scores after the options' warpers.

    On a CPU, top-k and top-p are applied to only the largest scores if these are certain to include every token that
    is kept, because sorting the whole vocabulary takes longer than a small model's decode step.

    Args:
        key_B1: as for `draw`.
    """
    few = options.top_k or options.top_p < 1
    plain = options.min_p is None and options.typical_p == 1 and not options.epsilon_cutoff and not options.eta_cutoff
    if not (few and plain) or scores_BV.device.type != "cpu" or scores_BV.shape[1] < 4 * _MIN_CANDIDATES:
        return _sample_with_warpers(scores_BV, options, key_B1)
    count = max(2 * options.top_k, _MIN_CANDIDATES)
    if count > scores_BV.shape[1]:
        return _sample_with_warpers(scores_BV, options, key_B1)
    scaled_BV = scores_BV / options.temperature
    top_BK, index_BK = scaled_BV.topk(count, -1)
    kept_BK, certain_B = _kept(scaled_BV, top_BK, options)
    token_B = _draw_among(top_BK.masked_fill(~kept_BK, -torch.inf), index_BK, scores_BV.shape[1], key_B1)
    if not bool(certain_B.all()):
        token_B[~certain_B] = _sample_with_warpers(scores_BV[~certain_B], options, key_B1[~certain_B])
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


def _sample_with_warpers(scores_BV: Tensor, options: GenerationOptions, key_B1: Tensor) -> Tensor:
    shaped = LogitsProcessorList(warpers(options, scores_BV.device))
    # Warpers ignore the token ids.
    return draw(shaped(None, scores_BV), key_B1)  # type: ignore[arg-type]
