"""Draws from scores by random keys: their distribution, and how often two distributions give one token."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, gumbel_r, kstest
from torch import Tensor

from skiplab.engine import sampling
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.sampling import draw, gumbel, sample


def keys(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-(2**63), 2**63, (count, 1)))


def scores(vocabulary: int, seed: int, spread: float = 2.0) -> Tensor:
    return torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("over", ["keys", "tokens"])
def test_noise_has_the_gumbel_distribution(over: str) -> None:
    shape = {"keys": (keys(50_000), torch.tensor([77])), "tokens": (keys(1), torch.arange(50_000))}[over]
    noise = gumbel(*shape).flatten().double().numpy()
    assert kstest(noise, gumbel_r.cdf).pvalue > 1e-3


def test_noise_is_the_published_generators() -> None:
    """SplitMix64 from state 1234567 gives 6457827717110365317 first; index 1 is its first number."""
    uniform = (6457827717110365317 >> 11) * 2**-53
    expected = -np.log(-np.log1p(-uniform))
    assert float(gumbel(torch.tensor([[1234567]]), torch.tensor([1]))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("vocabulary", [5, 300, 2000])
def test_draws_follow_the_softmax(vocabulary: int) -> None:
    scores_V, count = scores(vocabulary, seed=1), 20_000
    seen_V = torch.bincount(draw(scores_V.expand(count, -1), keys(count)), minlength=vocabulary)
    expected_V = scores_V.double().softmax(-1) * count
    # The rare ones together.
    order = expected_V.argsort(descending=True)
    often = order[expected_V[order] >= 5]
    rest = count - expected_V[often].sum(), count - seen_V[often].sum()
    kept = slice(None) if rest[0] > 1 else slice(-1)
    counts, expected = [*seen_V[often].tolist(), int(rest[1])], [*expected_V[often].tolist(), float(rest[0])]
    assert chisquare(counts[kept], expected[kept], sum_check=False).pvalue > 1e-3


def test_a_draw_never_takes_a_token_of_probability_zero() -> None:
    scores_V = torch.full((600,), -torch.inf)
    scores_V[[1, 299, 599]] = torch.tensor([0.0, -60.0, 1.0])
    assert set(draw(scores_V.expand(5000, -1), keys(5000)).tolist()) <= {1, 299, 599}


@pytest.mark.parametrize("options", [{"top_k": 40}, {"top_k": 0, "top_p": 0.8}, {"top_k": 60, "top_p": 0.5}])
def test_the_largest_scores_give_the_token_that_all_scores_give(options: dict[str, float]) -> None:
    given = GenerationOptions.of(do_sample=True, temperature=0.8, **options)
    scores_BV = torch.stack([scores(3000, seed, spread=3.0) for seed in range(200)])
    drawn_B = sample(scores_BV, given, keys(200))
    assert torch.equal(drawn_B, sampling._sample_with_warpers(scores_BV, given, keys(200)))
    assert len(set(drawn_B.tolist())) > 50


@pytest.mark.parametrize("distance", [0.3, 1.0])
def test_one_key_gives_close_distributions_the_same_token(distance: float) -> None:
    """At least as often as flat Gumbel noise does, up to the error of 20,000 draws."""
    count, first_V = 20_000, scores(700, seed=3)
    second_V = first_V + scores(700, seed=4, spread=distance)
    apart = float((first_V.softmax(-1) - second_V.softmax(-1)).abs().sum()) / 2
    same = (draw(first_V.expand(count, -1), keys(count)) == draw(second_V.expand(count, -1), keys(count))).float()
    assert (1 - apart) / (1 + apart) - 0.01 < float(same.mean()) < 1 - apart + 0.01
