"""The server with OpenAI's own client."""

from collections.abc import Iterator
from typing import Any

import pytest

from skiplab.export.saved_method import SavedMethod
from tests.export.test_method import method as byte_level_method
from tests.serve.serving import NAME, serving

openai = pytest.importorskip("openai", reason="OpenAI's client is not installed")
method = byte_level_method


@pytest.fixture(scope="module")
def address(method: SavedMethod) -> Iterator[str]:
    with serving(method, max_rows=4, max_new_tokens=60) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_completions_are_the_methods_outputs(client: Any, method: SavedMethod) -> None:
    prompts = ["the golden", "a café", "fox"]
    answer = client.completions.create(model=NAME, prompt=prompts)
    assert [choice.text for choice in answer.choices] == method.generate(prompts)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(map(len, method.tokens(prompts)))
    assert answer.usage.prompt_tokens == sum(map(len, method.prompt_ids(prompts)))
    ids = method.prompt_ids("fox")[0]
    assert client.completions.create(model=NAME, prompt=ids).choices[0].text == answer.choices[2].text
    assert client.completions.create(model=NAME, prompt="fox", max_tokens=3).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 1.5, "seed": 4},
        {"temperature": 1.5, "seed": 4, "stop": ["a", "e"]},
        {"top_p": 0.8, "seed": 1, "extra_body": {"top_k": 20, "repetition_penalty": 1.2, "min_tokens": 3}},
    ],
)
def test_the_pieces_of_a_stream_are_the_complete_answer(client: Any, options: dict[str, Any]) -> None:
    whole = client.completions.create(model=NAME, prompt="the golden", **options).choices[0]
    pieces = list(client.completions.create(model=NAME, prompt="the golden", stream=True, **options))
    assert "".join(piece.choices[0].text for piece in pieces) == whole.text
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices[0].finish_reason] == [
        whole.finish_reason
    ]
    assert len(pieces) > 2 or "stop" in options


def test_sampled_outputs_are_those_of_the_method(client: Any, method: SavedMethod) -> None:
    answer = client.completions.create(model=NAME, prompt="fox", temperature=1.3, n=3, seed=7)
    options: dict[str, Any] = {"do_sample": True, "temperature": 1.3, "top_k": 0, "seed": 7, "num_return_sequences": 3}
    assert [choice.text for choice in answer.choices] == method.generate("fox", **options)


def test_a_chat_streams_with_its_role_and_usage(client: Any, method: SavedMethod) -> None:
    messages: Any = [{"role": "user", "content": "the golden fox"}]
    whole = client.chat.completions.create(model=NAME, messages=messages)
    assert whole.choices[0].message.content == method.chat(messages)
    assert whole.choices[0].message.role == "assistant"
    *pieces, last = client.chat.completions.create(
        model=NAME, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    assert last.usage == whole.usage
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "the golden fox"}]}]
    assert client.chat.completions.create(model=NAME, messages=parts).choices[0].message.content == method.chat(
        messages
    )
