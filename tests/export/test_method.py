"""Use of a loaded method: options, streams, conversations, and the fast path."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, TextIteratorStreamer

from baselines.calm import CALM
from baselines.early_termination import EarlyTermination
from skiplab.backbones.shapes import LlamaSpec
from skiplab.data.encoding import Encoding, Template
from skiplab.engine import fast_path, packed_linear
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.policy import FullDepth, PromptPlanned
from skiplab.evaluation.generate import generate
from skiplab.export.saved_method import SavedMethod, SavedMethodError, load_method, save_method
from skiplab.export.text_stream import TextStream
from skiplab.methods.base import ExitModule, Optimization, Setup
from skiplab.methods.skipdecode import SkipDecode
from skiplab.schedules.prompt_spec import PromptSpec
from tests.export.test_saved_method import DATA, PROMPTS, SHAPES, saved, setup

METHODS: dict[str, tuple[type[ExitModule], dict[str, Any]]] = {
    "skip": (SkipDecode, {"speedup": 2.0}),
    "prompt": (SkipDecode, {"speedup": 2.0, "prompt": {"form": "ends", "from_layer": 1, "first": 1, "last": 2}}),
    "terminate": (EarlyTermination, {"speedup": 2.0}),
    "calm": (CALM, {"threshold": 0.6, "confidence": "state"}),
}
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TEXT = ["the golden fox is a café with low prices; ñandú 東京 🦊🦊"] * 20


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens may be parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", chat_template=CHAT
    )


@pytest.fixture(scope="module")
def method() -> SavedMethod:
    """A method on byte-level tokens with random weights, so that outputs contain parts of characters."""
    tokenizer = byte_level_tokenizer()
    torch.manual_seed(1)
    shape = LlamaSpec(num_layers=4, hidden_size=24, num_heads=6, num_kv_heads=3, max_positions=160, init_std=0.3)
    backbone = shape.build(vocab_size=len(tokenizer), pad_id=0, bos_id=2, eos_id=1).eval()
    policy = SkipDecode(Setup(backbone, [30], Optimization(learning_rate=1e-3)), speedup=1.5).exit_policy([])
    return SavedMethod(backbone, policy, Encoding(tokenizer, Template(), pretrained=True), 40, {})


def prompted(method: SavedMethod) -> SavedMethod:
    """With most layers on only a part of the prompt."""
    plan = PromptSpec(form="ends", from_layer=1, first=1, last=2).plan(4, method.policy.plan(1))
    return SavedMethod(method.backbone, PromptPlanned(method.policy, plan), method.encoding, 40, {})


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_a_loaded_method_gives_the_comparisons_tokens(
    tmp_path: Path, family: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, params = METHODS[name]
    module = cls(setup(family), **params)
    saved(tmp_path, module, **params)
    items = DATA.items("test")
    expected = generate(module.backbone, module.exit_policy([]), DATA, items, batch_size=5).tokens
    assert load_method(tmp_path).tokens(PROMPTS) == expected
    assert load_method(tmp_path, fast=False).tokens(PROMPTS, batch_size=3) == expected
    monkeypatch.setattr(packed_linear, "_SMALL_BYTES", 0)
    packed = load_method(tmp_path)
    assert packed.tokens(PROMPTS) == expected
    assert [row for prompt in PROMPTS for row in packed.tokens(prompt)] == expected


def test_recorded_steps_give_the_same_tokens(method: SavedMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where the same steps run without being recorded."""

    class Recording(fast_path.FastPath):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, records=True)

    prompts = [text[:size] for text, size in zip(TEXT, range(3, 13), strict=False)]
    calls = [
        {}, {"max_new_tokens": 70}, {"do_sample": True, "seed": 1, "temperature": 1.5}, {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2}, {"do_sample": True, "seed": 1, "stop_strings": ["a"]}, {},
    ]  # fmt: skip
    expected = [method.tokens(prompts, batch_size=4, **options) for options in calls]
    monkeypatch.setattr("skiplab.export.method.FastPath", Recording)
    recorded = SavedMethod(method.backbone, method.policy, method.encoding, 40, {})
    assert [recorded.tokens(prompts, batch_size=4, **options) for options in calls] == expected
    assert sorted(recorded._path._graphs) == [2, 4]


def test_one_string_gives_one_string(method: SavedMethod) -> None:
    one, several = method.generate("the fox"), method.generate(["the fox", "a café"])
    assert isinstance(one, str)
    assert several[0] == one
    draws = method.generate("the fox", do_sample=True, seed=1, num_return_sequences=3)
    assert len(draws) == 3
    assert draws[0] == method.generate("the fox", do_sample=True, seed=1)
    assert method.generate([]) == []


@pytest.mark.parametrize("stops", [(), ("e",), ("fo", "\ufffd"), ("é", " a")])
def test_the_pieces_of_a_stream_are_the_text(method: SavedMethod, stops: tuple[str, ...]) -> None:
    pieces = 0
    for seed in range(20):
        options: dict[str, Any] = {
            "do_sample": True,
            "seed": seed,
            "temperature": 2.0,
            "top_k": 0,
            "stop_strings": stops,
        }
        found = list(method.stream("the golden", **options))
        assert "".join(found) == method.generate("the golden", **options)
        pieces += len(found)
    assert pieces > 60 or stops


def test_pieces_contain_only_complete_characters() -> None:
    tokenizer = byte_level_tokenizer()
    text = "ñandú 東京 🦊 stop here"
    stream = TextStream(tokenizer, ["stop"])
    found = [stream.push(token) for token in tokenizer(text)["input_ids"]]
    assert "".join([*found, stream.end()]) == "ñandú 東京 🦊"
    assert not any("\ufffd" in piece for piece in found)
    assert len([piece for piece in found if piece]) > 3


def test_decoding_ends_when_a_stream_is_closed(method: SavedMethod) -> None:
    stream = method.stream("the fox", max_new_tokens=100)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert method.generate("the fox") == "".join(method.stream("the fox"))


def test_the_librarys_streamers_work(method: SavedMethod) -> None:
    streamer = TextIteratorStreamer(method.encoding.tokenizer, skip_prompt=True, skip_special_tokens=True)
    expected = method.generate("the fox", streamer=streamer)
    assert "".join(streamer).strip() == expected
    with pytest.raises(ValueError, match="a streamer takes one output, got 2"):
        method.generate(["a", "b"], streamer=streamer)


def test_conversations_continue_with_the_chat_template(method: SavedMethod) -> None:
    messages = [{"role": "user", "content": "the golden fox"}]
    ids = method.encoding.tokenizer("user: the golden fox\n")["input_ids"]
    expected = method.encoding.texts(method.decode(method.request([ids], method.options())).sequences())[0]
    assert method.chat(messages) == expected
    assert method.chat([messages, messages]) == [expected] * 2
    assert "".join(method.stream(messages)) == expected
    with pytest.raises(ValueError, match="messages must be a list of mappings with role and content"):
        method.chat([{"role": "user"}])
    plain = SavedMethod(method.backbone, method.policy, DATA.encoding, 40, {})
    with pytest.raises(ValueError, match="no chat template; use generate"):
        plain.chat(messages)


def test_a_generation_config_is_accepted_too(method: SavedMethod) -> None:
    config = GenerationConfig(repetition_penalty=1.5, max_new_tokens=9)
    assert method.tokens("the fox", generation_config=config) == method.tokens(
        "the fox", repetition_penalty=1.5, max_new_tokens=9
    )
    assert len(method.tokens("the fox", max_new_tokens=3)[0]) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "num_beams is not supported, got 2"),
        ({"temprature": 2}, "temprature is not a generation option; did you mean temperature?"),
        ({"max_new_tokens": 159}, "prompt 1 has 3 tokens, and max_new_tokens=159 leaves room for 2 of the model's 160"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_calls_are_refused_before_anything_is_decoded(
    method: SavedMethod, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        method.generate(["a", "xyz"[:2]], **options)


def test_streams_refuse_bad_options_at_once(method: SavedMethod) -> None:
    with pytest.raises(ValueError, match="not a generation option"):
        method.stream("a", nothing=1)
    with pytest.raises(ValueError, match="a stream has one output, got num_return_sequences=2"):
        method.stream("a", do_sample=True, num_return_sequences=2)


# Folders.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved(tmp_path, SkipDecode(setup(), speedup=2.0), speedup=2.0)
    return tmp_path


def test_a_checkpoints_generation_config_is_applied(folder: Path) -> None:
    plain = load_method(folder).tokens(PROMPTS)
    GenerationConfig(repetition_penalty=2.0, eos_token_id=[5, 6]).save_pretrained(folder)
    method = load_method(folder)
    assert method.defaults.eos_token_id == (DATA.eos_id, 5, 6)
    assert method.tokens(PROMPTS) != plain
    assert method.tokens(PROMPTS, repetition_penalty=1.0, eos_token_id=DATA.eos_id) == plain
    GenerationConfig(num_beams=3).save_pretrained(folder)
    with pytest.raises(SavedMethodError, match=r"generation_config.json: num_beams is not supported, got 3;"):
        load_method(folder)


def test_the_options_of_a_run_that_samples_are_saved(tmp_path: Path) -> None:
    module = SkipDecode(setup(), speedup=2.0)
    options = GenerationOptions.of(do_sample=True, top_p=0.7, temperature=0.3, top_k=0)
    save_method(
        tmp_path, module, module.exit_policy([]), DATA.encoding, params={"speedup": 2.0}, max_new_tokens=5, facts={},
        options=options,
    )  # fmt: skip
    assert load_method(tmp_path).defaults == options


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "int8"])
def test_number_formats(folder: Path, dtype: Any) -> None:
    method = load_method(folder, device="cpu", dtype=dtype)
    assert method.backbone.dtype == (torch.float32 if dtype == "int8" else torch.bfloat16)
    assert len(method.generate(PROMPTS)) == len(PROMPTS)


def test_missing_devices_and_unknown_formats_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, int8, got 'fp8'"):
        load_method(folder, dtype="fp8")
    for device in ("gpu", "mps"):
        with pytest.raises(ValueError, match=f"device must be cpu, cuda or cuda:NUMBER, got '{device}'"):
            load_method(folder, device=device)
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=rf"device='cuda:{count}' asks for a GPU .*: it finds {count} here"):
        load_method(folder, device=f"cuda:{count}")


class UsersMethod(SkipDecode):  # type: ignore[misc]
    """A method of another package."""


def test_classes_of_other_packages_need_trust(tmp_path: Path) -> None:
    before = saved(tmp_path, UsersMethod(setup(), speedup=2.0), speedup=2.0)
    assert json.loads((tmp_path / "skiplab.json").read_text())["class"] == "tests.export.test_method.UsersMethod"
    for trust in ((), ("test",), ("tests.other",)):
        with pytest.raises(SavedMethodError, match=r"pass load_method\(..., trust=\['tests'\]\)"):
            load_method(tmp_path, trust=trust)
    for trust in (("tests",), ("tests.",), ["tests.export"]):
        assert load_method(tmp_path, trust=trust).tokens(PROMPTS) == before.tokens(PROMPTS)
    with pytest.raises(ValueError, match="trust must be a list of packages"):
        load_method(tmp_path, trust="tests")


def test_full_depth_of_another_method_differs(folder: Path) -> None:
    method = load_method(folder)
    full = SavedMethod(method.backbone, FullDepth(6), DATA.encoding, 24, {})
    assert method.tokens(PROMPTS) != full.tokens(PROMPTS)


@pytest.mark.parametrize("form", ["whole", "ends"])
def test_the_continuous_engine_gives_the_methods_tokens(method: SavedMethod, form: str) -> None:
    prompts = ["the golden", "a café", "fox"]
    method = method if form == "whole" else prompted(method)
    engine, options = method.engine(slots=2), method.options(max_new_tokens=12)
    handles = []
    for ids in method.prompt_ids(prompts):
        handles.append(engine.submit(method.row(ids, options)))
        engine.step()
    while engine.step():
        pass
    assert [handle.tokens for handle in handles] == method.tokens(prompts, max_new_tokens=12)
