"""Drafts and verifications give the tokens, keys and values of full depth."""

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import collate
from skiplab.engine.continuous import Engine
from skiplab.engine.decode import decode, decode_request, decode_steps
from skiplab.engine.draft_length import DraftCounts, Drafting
from skiplab.engine.draft_rounds import Outcome, Tally
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.kept_batches import DraftBatches
from skiplab.engine.kv_cache import KVCache
from skiplab.engine.policy import ExitPolicy, FullDepth, Planned, PromptPlanned, Scheduled
from skiplab.engine.request import Decoding, Request, RowRequest
from skiplab.engine.speculative import Speculative
from skiplab.schedules.exit_schedule import ExitSchedule, skip_plan, terminate_plan
from skiplab.schedules.prompt_plan import ALL, PromptPlan
from tests.tiny import EOS, LAYOUTS, PAD, VOCABULARY, CoordinateExit, prompts, tiny_backbone

BACKBONES = {layout: tiny_backbone(layout) for layout in LAYOUTS}
FULL = FullDepth(6)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
DRAFTERS: dict[str, ExitPolicy] = {
    "decay": Scheduled(ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8), "skip"),
    "constant": Planned([skip_plan(6, 3, 1)]),
    "exit": Planned([terminate_plan(2)]),
    "spaced": Planned([(0, 2, 4)]),
    "almost all": Planned([skip_plan(6, 5, 1)]),
}


@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_are_those_of_full_depth(layout: str, rows: int, drafter: ExitPolicy) -> None:
    backbone, texts, limits = BACKBONES[layout], prompts(rows, seed=1), [17 - row for row in range(rows)]
    for eos_id in (None, EOS):
        options = {"max_new_tokens": limits, "eos_id": eos_id, "pad_id": PAD}
        full = decode(backbone, FULL, texts, **options)
        found = decode(backbone, Speculative(drafter, 6, Drafting(length=3)), texts, **options)
        assert found.sequences() == full.sequences()
        assert torch.equal(found.tokens_BT, full.tokens_BT)


def sampled(backbone: Backbone, policy: ExitPolicy, options: GenerationOptions, rows: int) -> list[list[int]]:
    decoding = Decoding(options, 16, EOS, PAD)
    return decode_request(backbone, policy, decoding.request(prompts(rows, seed=2))).sequences()


OPTIONS = {
    "sampled": {"do_sample": True, "seed": 5},
    "paper": {"do_sample": True, "seed": 5, "top_p": 0.7, "temperature": 0.3},
    "processed": {"do_sample": True, "seed": 1, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "top_k": 7},
    "greedy with history": {"repetition_penalty": 1.6, "min_new_tokens": 6, "no_repeat_ngram_size": 3},
    "words": {"bad_words_ids": [[7], [9, 11]], "suppress_tokens": [12, 13]},
}


@pytest.mark.parametrize("given", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("rows", [1, 4])
def test_every_option_chooses_as_at_full_depth(rows: int, given: dict[str, Any]) -> None:
    backbone, options = BACKBONES["pre_norm"], GenerationOptions.of(**given)
    policy = Speculative(DRAFTERS["constant"], 6, Drafting(length=4))
    assert sampled(backbone, policy, options, rows) == sampled(backbone, FULL, options, rows)


def draws(policy: ExitPolicy, seed: int) -> Tensor:
    """5,000 outputs of three tokens (P, N, T) for each of five prompts."""
    options = GenerationOptions.of(do_sample=True, temperature=0.7, seed=seed, num_return_sequences=5_000)
    requests = Decoding(options, 3, None, PAD).requests(prompts(5, seed=2), batch_size=1_000)
    found = [decode_request(BACKBONES["llama"], policy, request).tokens_BT for request in requests]
    return torch.cat(found).view(5, 5_000, 3)


def test_samples_have_the_distribution_of_full_depth() -> None:
    """Two samples of 50,000 drafted and verified tokens, with seeds fixed here, by prompt and place."""
    found, expected = draws(Speculative(DRAFTERS["constant"], 6, Drafting(length=2)), 11), draws(FULL, 12)
    for prompt, place in itertools.product(range(5), (1, 2)):
        counts = [one[prompt, :, place].bincount(minlength=VOCABULARY) for one in (found, expected)]
        table = torch.stack(counts).numpy()
        tested: Any = chi2_contingency(table[:, table.min(0) >= 5])
        assert tested.pvalue > 1e-3


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_any_plan_length_and_limits(data: st.DataObject) -> None:
    backbone = BACKBONES[data.draw(st.sampled_from(sorted(BACKBONES)))]
    plans = [
        tuple(sorted(data.draw(st.sets(st.integers(0, 5), max_size=5)))) for _ in range(data.draw(st.integers(2, 5)))
    ]
    rows = data.draw(st.integers(1, 6))
    drafting = Drafting(
        length=data.draw(st.integers(1, 7)),
        adaptive=data.draw(st.booleans()),
        threshold=data.draw(st.sampled_from([None, 0.05, 0.5])),
        vocabulary=data.draw(st.none() | st.lists(st.integers(0, VOCABULARY - 1), min_size=1)),
    )
    policy = Speculative(Planned(plans), 6, drafting)
    texts = prompts(rows, seed=data.draw(st.integers(0, 9)))
    limits = data.draw(st.lists(st.integers(1, 20), min_size=rows, max_size=rows))
    options = {"max_new_tokens": limits, "eos_id": data.draw(st.sampled_from([None, EOS])), "pad_id": PAD}
    found, full = (decode(backbone, one, texts, **options) for one in (policy, FULL))
    assert found.sequences() == full.sequences()
    assert torch.equal(found.depth_BT, full.depth_BT)


# On a GPU, a single row uses its own kernels.
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_recorded_passes_serve_batches_of_all_lengths(layout: str, device: str, rows: int) -> None:
    backbone = tiny_backbone(layout).to(device)
    for drafter in DRAFTERS.values():
        policy = Speculative(drafter, 6, Drafting(length=4))
        batches = DraftBatches(backbone, policy, rows=rows, prompt_columns=12, new_tokens=18)
        for seed, limits in enumerate(([14] * 3, [18, 3, 9], [2] * 3)):
            texts, options = prompts(rows, seed=seed), {"max_new_tokens": limits[:rows], "eos_id": EOS, "pad_id": PAD}
            found = decode(backbone, policy, texts, **options, graphs=batches)
            assert found.sequences() == decode(backbone, FULL, texts, **options).sequences()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_and_values_are_those_of_full_depth(layout: str) -> None:
    backbone, rng, texts = BACKBONES[layout], random.Random(0), prompts(3, seed=3)
    # A new plan at each step, so that rows accept different numbers of drafts.
    drafter = Planned([tuple(sorted(rng.sample(range(6), rng.randint(0, 5)))) for _ in range(30)])
    # Of so many tokens that no row ends, and changes places, before step 12.
    request, last = Request(texts, [50] * 3, (), PAD), 12
    caches: list[KVCache] = []
    new_cache = backbone.new_cache
    for policy in (Speculative(drafter, 6, Drafting(length=3)), FULL):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbone, "new_cache", lambda *given: caches.append(new_cache(*given)) or caches[-1])
            steps = decode_steps(backbone, policy, request)
            assert [step.step for step in itertools.islice(steps, last + 1)][-1] == last
    columns = max(map(len, texts)) + last
    for layer in range(6):
        for speculative, full in zip(stored(caches[0], layer), stored(caches[1], layer), strict=True):
            for row, text in enumerate(texts):
                real = slice(columns - last - len(text), columns)
                # The values reach 5, and products of other shapes round otherwise: by 1e-5 on some processors.
                torch.testing.assert_close(speculative[row, :, real], full[row, :, real], rtol=0, atol=1e-4)


def stored(cache: KVCache, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All keys and values of a layer."""
    return cache._keys[layer], cache._values[layer]


def test_counts_and_depths_say_what_a_round_cost() -> None:
    """The full model as its own drafter, but for a layer that changes nothing, has every draft accepted."""
    backbone = tiny_backbone()
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "layers.5." in name and ("fc2" in name or "out_proj" in name):
                parameter.zero_()
    policy = Speculative(Planned([tuple(range(5))]), 6, Drafting(length=3))
    found = decode(backbone, policy, prompts(2), max_new_tokens=9, eos_id=None, pad_id=PAD)
    # Eight tokens after the first, four per round of three drafts.
    assert found.drafts == DraftCounts(verifications=4, drafted=12, accepted=12, layers=4 * (3 * 5 + 6))
    assert found.drafts
    assert found.drafts.figures == {"tokens_per_verification": 4, "layers_per_token": 21 / 4, "draft_acceptance": 1}


def test_drafts_behind_a_rows_limit_do_not_count() -> None:
    counts = DraftCounts()
    # The second row may still generate two tokens, one of them a draft.
    counts.add(3, [3, 3, 0], [9, 2, 1], layers=20)
    assert counts == DraftCounts(verifications=3, drafted=4, accepted=4, layers=60)
    policy = Speculative(DRAFTERS["exit"], 6, Drafting(length=3))
    limits = [3, 9, 6]
    found = decode(BACKBONES["llama"], policy, prompts(3), max_new_tokens=limits, eos_id=None, pad_id=PAD)
    assert found.drafts is not None
    # All tokens but the first of each row come from a verification or an accepted draft.
    assert found.drafts.verifications + found.drafts.accepted == sum(limits) - len(limits)


def test_what_a_batch_teaches_about_draft_lengths_serves_later_ones() -> None:
    policy = Speculative(DRAFTERS["exit"], 6, Drafting(adaptive=True))
    assert policy.length(3) is policy.length(4)
    assert policy.length(2) is not policy.length(3)
    # Drafts do not pay, say the first batches.
    for drafts in (4, 0, 4):
        outcome = Outcome(drafts, [0], [0.0] * drafts, draft_seconds=25.0 * drafts, verify_seconds=1.0)
        for rows in (1, 2):
            policy.length(rows).observe(outcome, [Tally()])
    drafted = {}
    for rows in (2, 3):
        found = decode(BACKBONES["llama"], policy, prompts(rows), max_new_tokens=9, eos_id=None, pad_id=PAD)
        assert found.drafts is not None
        drafted[rows] = found.drafts.drafted
    assert drafted[2] == 0
    assert drafted[3] > 0


def test_drafting_ends_with_confidence() -> None:
    policy = Speculative(DRAFTERS["exit"], 6, Drafting(length=7, threshold=0.999))
    found = decode(BACKBONES["llama"], policy, prompts(2), max_new_tokens=9, eos_id=None, pad_id=PAD)
    assert found.drafts is not None
    assert 0 < found.drafts.drafted <= found.drafts.verifications


@pytest.mark.parametrize(
    ("drafter", "message"),
    [
        (FULL, "fewer than the model's 6 layers, got 6 at step 1"),
        (CoordinateExit(0.0), "a drafter must have planned layers"),
        (Speculative(DRAFTERS["exit"], 6, Drafting()), "a drafter must have planned layers"),
        (PromptPlanned(Planned([(0, 5)]), PromptPlan((ALL,) * 6)), "a drafter must have no prompt plan"),
    ],
)
def test_a_drafter_that_cannot_draft_is_refused(drafter: ExitPolicy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Speculative(drafter, 6, Drafting())


def test_a_draft_length_beyond_the_positions_is_refused() -> None:
    policy = Speculative(DRAFTERS["exit"], 6, Drafting(length=64))
    with pytest.raises(ValueError, match="draft length 64 must be below the model's 64 positions"):
        decode(BACKBONES["llama"], policy, prompts(1), max_new_tokens=3, eos_id=None, pad_id=PAD)


def test_a_vocabulary_is_found_on_validation_batches() -> None:
    counted = Speculative(DRAFTERS["exit"], 6, Drafting(vocabulary=2))
    with pytest.raises(ValueError, match="draft vocabulary=2 is a number of tokens"):
        decode(BACKBONES["llama"], counted, prompts(1), max_new_tokens=3, eos_id=None, pad_id=PAD)
    with pytest.raises(ValueError, match="draft vocabulary=2 takes the most frequent tokens of validation data"):
        counted.fitted([])
    batch = collate([[3, 4]] * 3, [[7, 8, EOS], [9, 8, 8, EOS], [8, EOS]], PAD)
    found = counted.fitted([batch])
    assert isinstance(found, Speculative)
    assert found.drafting.vocabulary == (8, EOS)
    assert found.fitted([]) is found
    assert FULL.fitted([batch]) is FULL


def test_a_row_may_fill_all_positions() -> None:
    backbone, text = BACKBONES["pre_norm"], prompts(1, seed=4)
    options = {"max_new_tokens": 64 - len(text[0]) + 1, "eos_id": None, "pad_id": PAD}
    policy = Speculative(DRAFTERS["almost all"], 6, Drafting(length=9))
    assert decode(backbone, policy, text, **options).sequences() == decode(backbone, FULL, text, **options).sequences()


@settings(deadline=None, max_examples=8)
@given(st.data())
def test_any_arrivals_decode_as_at_full_depth_alone(data: st.DataObject) -> None:
    backbone = BACKBONES[data.draw(st.sampled_from(sorted(BACKBONES)))]
    drafting = Drafting(adaptive=data.draw(st.booleans()), vocabulary=data.draw(st.sampled_from([None, (EOS, 7, 9)])))
    policy = Speculative(data.draw(st.sampled_from(list(DRAFTERS.values()))), 6, drafting)
    slots, chunk = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    engine = Engine(backbone, policy, slots=slots, chunk=chunk, record=data.draw(st.booleans()))
    handles = []
    for text in prompts(7, seed=data.draw(st.integers(0, 5))):
        handles.append(engine.submit(RowRequest(text, data.draw(st.integers(1, 14)), (EOS,))))
        engine.step()
    while engine.step():
        pass
    for handle in handles:
        options = {"max_new_tokens": handle.request.limit, "eos_id": EOS, "pad_id": PAD}
        assert [handle.tokens] == decode(backbone, FULL, [handle.request.prompt], **options).sequences()


def test_a_cancelled_row_keeps_what_was_handed_out() -> None:
    backbone, request = BACKBONES["llama"], Request(prompts(3), [12] * 3, (), PAD)
    full = decode_request(backbone, FULL, request).sequences()
    steps = decode_steps(backbone, Speculative(DRAFTERS["almost all"], 6, Drafting()), request)
    found = [*itertools.islice(steps, 5), steps.send([1]), *steps]
    assert [step.index_A.tolist() for step in found] == [[0, 1, 2]] * 5 + [[0, 2]] * 7
    for step in found:
        assert step.token_A.tolist() == [full[row][step.step] for row in step.index_A.tolist()]
