"""Sampling: its distribution, its seeds, and the independence of rows."""

import pytest
import torch
from scipy.stats import chisquare

from skiplab.engine import cuda_graphs
from skiplab.engine.backbone import Backbone
from skiplab.engine.cuda_graphs import StepGraphs
from skiplab.engine.decode import decode_request, decode_steps
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.policy import ExitPolicy, FullDepth, Scheduled
from skiplab.engine.request import Decoding, Request
from skiplab.engine.sampling import draw
from skiplab.engine.token_choice import row_key, uniforms
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.tiny import EOS, LAYOUTS, PAD, VOCABULARY, CoordinateExit, prompts, tiny_backbone

POLICIES: dict[str, ExitPolicy] = {
    "full": FullDepth(6),
    "skip": Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=3, horizon=6), "skip"),
    "adaptive": CoordinateExit(0.5),
}
SAMPLED = GenerationOptions.of(do_sample=True, temperature=1.3, top_p=0.95, seed=3)


def requests(batch: list[list[int]], options: GenerationOptions = SAMPLED, size: int = 1000) -> list[Request]:
    return list(Decoding(options, max_new_tokens=14, eos_id=EOS, pad_id=PAD).requests(batch, batch_size=size))


def sampled(
    backbone: Backbone,
    policy: ExitPolicy,
    batch: list[list[int]],
    options: GenerationOptions = SAMPLED,
    size: int = 1000,
) -> list[list[int]]:
    found = (decode_request(backbone, policy, request) for request in requests(batch, options, size))
    return [row for result in found for row in result.sequences()]


def test_draws_of_one_step_follow_the_processed_distribution() -> None:
    backbone, count = tiny_backbone(), 20_000
    options = GenerationOptions.of(
        do_sample=True, temperature=1.7, top_p=0.9, top_k=30, repetition_penalty=1.2, seed=1,
        num_return_sequences=count, max_new_tokens=1,
    )  # fmt: skip
    (request,) = requests([[5, 6, 7, 8]], options, count)
    assert request.choosing is not None
    probability_V = seen_V = torch.zeros(0)
    for step in decode_steps(backbone, FullDepth(6), request):
        ids_BP = torch.tensor([[5, 6, 7, 8]]).expand(count, 4)
        scores_BV = request.choosing.processors(ids_BP, step.logits_AV)  # type: ignore[arg-type]
        probability_V = scores_BV[0].softmax(-1)
        seen_V = torch.bincount(step.token_A, minlength=VOCABULARY)
    likely_V = probability_V > 0
    assert 5 < int(likely_V.sum()) < VOCABULARY
    assert int(seen_V[~likely_V].sum()) == 0
    expected = (probability_V[likely_V].double() / probability_V.double().sum() * count).numpy()
    assert chisquare(seen_V[likely_V].numpy(), expected).pvalue > 1e-3


def test_a_draw_never_takes_a_token_of_probability_zero() -> None:
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, 5)
    numbers = torch.tensor([[0.0], [0.5], [1 - 2**-53]], dtype=torch.float64)
    assert draw(scores, numbers).tolist() == [1, 3, 3]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rows_output_is_independent_of_the_batch(layout: str, policy: ExitPolicy) -> None:
    backbone, batch = tiny_backbone(layout), prompts(7, seed=4)
    expected = sampled(backbone, policy, batch)
    assert sampled(backbone, policy, batch) == expected
    assert [row for prompt in batch for row in sampled(backbone, policy, [prompt])] == expected
    assert sampled(backbone, policy, batch, size=3) == expected
    assert sampled(backbone, policy, batch[::-1])[::-1] == expected
    other = GenerationOptions.of(do_sample=True, temperature=1.3, top_p=0.95, seed=4)
    assert sampled(backbone, policy, batch, other) != expected
    assert len({len(row) for row in expected}) > 1


def test_samples_of_one_prompt_differ_and_the_first_is_the_single_sample() -> None:
    backbone = tiny_backbone()
    several = SAMPLED.updated(num_return_sequences=4)
    found = sampled(backbone, FullDepth(6), [[5, 6], [7]], several)
    assert len(found) == 8
    assert len({tuple(row) for row in found}) > 4
    assert found[::4] == sampled(backbone, FullDepth(6), [[5, 6], [7]])


def test_without_a_seed_draws_differ_from_call_to_call() -> None:
    options = GenerationOptions.of(do_sample=True, temperature=2.0)
    backbone = tiny_backbone()
    assert sampled(backbone, FullDepth(6), prompts(3), options) != sampled(backbone, FullDepth(6), prompts(3), options)


def test_random_numbers_depend_only_on_key_and_step() -> None:
    keys = [row_key(0, [1, 2]), row_key(0, [1, 2], 1), row_key(1, [1, 2]), row_key(0, [1])]
    assert len(set(keys)) == 4
    few, many = uniforms(keys, 3), uniforms(keys[::-1], 50).flip(0)
    assert torch.equal(many[:, :3], few)
    assert 0.4 < float(many.mean()) < 0.6


RECORDED = {
    "sampling": {"do_sample": True, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "seed": 1},
    "other sampling": {"do_sample": True, "top_k": 0, "typical_p": 0.8, "min_p": 0.02, "seed": 1},
    "penalty": {"repetition_penalty": 1.5},
    "all": {
        "do_sample": True, "temperature": 1.5, "seed": 2, "repetition_penalty": 1.5, "min_new_tokens": 8,
        "suppress_tokens": [5, 6], "begin_suppress_tokens": [9], "eos_token_id": [EOS, 20, 21, 22, 23, 24],
        "epsilon_cutoff": 0.001, "eta_cutoff": 0.001,
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("policy", [POLICIES["full"], POLICIES["skip"]], ids=["full", "skip"])
def test_recorded_steps_choose_the_same_tokens(
    layout: str, policy: ExitPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "BUCKET", 4)
    backbone = tiny_backbone(layout)
    graphs = StepGraphs(backbone, policy, rows=4, prompt_columns=12, new_tokens=18)
    # In sequence with the same recordings, so that state left by an earlier batch would show.
    for number, options in enumerate([{}, *RECORDED.values(), {}]):
        batch = prompts(4, seed=number)
        (request,) = requests(batch, GenerationOptions.of(**options))
        expected = decode_request(backbone, policy, request)
        actual = decode_request(backbone, policy, request, graphs=graphs)
        assert torch.equal(actual.tokens_BT, expected.tokens_BT)
        assert torch.equal(actual.length_B, expected.length_B)
        assert torch.equal(actual.depth_BT, expected.depth_BT)
    assert graphs._recorded


@pytest.mark.parametrize("option", [{"no_repeat_ngram_size": 2}, {"bad_words_ids": [[4]]}])
def test_options_that_recorded_steps_cannot_apply_are_decoded_without_them_and_warn(option: dict) -> None:
    backbone, policy = tiny_backbone(), FullDepth(6)
    graphs = StepGraphs(backbone, policy, rows=3, prompt_columns=12, new_tokens=18)
    (request,) = requests(prompts(3), GenerationOptions.of(**option))
    with pytest.warns(UserWarning, match=f"recorded steps cannot apply {next(iter(option))}; the batch is decoded"):
        actual = decode_request(backbone, policy, request, graphs=graphs)
    assert torch.equal(actual.tokens_BT, decode_request(backbone, policy, request).tokens_BT)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_cancelled_row_ends_and_the_others_continue(recorded: bool) -> None:
    backbone, policy, batch = tiny_backbone(), FullDepth(6), prompts(4, seed=6)
    request = Request(batch, [12] * 4, (), PAD)
    graphs = StepGraphs(backbone, policy, rows=4, prompt_columns=12, new_tokens=12) if recorded else None
    whole = decode_request(backbone, policy, request).sequences()
    steps = decode_steps(backbone, policy, request, graphs=graphs)
    step = next(steps)
    while True:
        try:
            step = steps.send([1, 2] if step.step == 3 else None)
        except StopIteration as end:
            found = end.value.sequences()
            break
    assert found == [whole[0], whole[1][:4], whole[2][:4], whole[3]]
