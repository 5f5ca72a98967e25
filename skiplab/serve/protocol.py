"""The parts of OpenAI's requests and answers that are served."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from skiplab.engine.generation import GenerationOptions

Stops = str | list[str] | None


class ApiError(Exception):
    """An error for the client, in OpenAI's form."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        kind = "rate_limit_error" if status == 429 else kind
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class GenerationRequest(BaseModel):
    """Fields of completions and chats. Those after `user` are not in OpenAI's interface."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    stop: Stops = None
    seed: int | None = None
    user: str | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    min_tokens: int | None = None
    # Only these values are served.
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens of an output; None if the request does not say."""
        return self.max_tokens

    def options(self, defaults: GenerationOptions) -> GenerationOptions:
        """Generation options. A temperature above 0, or another sampling option, samples; temperature 0 is greedy;
        without any of them the method's defaults apply.

        Raises:
            ValueError: they do not fit together.
        """
        shaping = {"top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p, "typical_p": self.typical_p}
        if self.temperature == 0 or not (
            self.temperature or defaults.do_sample or (self.n or 1) > 1 or any(v is not None for v in shaping.values())
        ):
            if (self.n or 1) > 1:
                raise ValueError(f"n={self.n} at temperature=0 would repeat one output; raise temperature")
            chosen = defaults.updated(do_sample=False)
        else:
            # OpenAI's sampling keeps all tokens unless told otherwise.
            own = {} if defaults.do_sample else {"top_k": 0}
            sampled = {**own, **{name: value for name, value in shaping.items() if value is not None}}
            chosen = defaults.updated(do_sample=True, temperature=self.temperature, **sampled)
        return chosen.updated(
            seed=self.seed,
            stop_strings=self.stop,
            min_new_tokens=self.min_tokens,
            num_return_sequences=self.n,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
        )


class CompletionRequest(GenerationRequest):
    """`/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: Literal[False, None] = None
    best_of: Literal[1, None] = None
    logprobs: Literal[None] = None
    suffix: Literal[None] = None


class ChatRequest(GenerationRequest):
    """`/v1/chat/completions`."""

    messages: list[_Message]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False, None] = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def conversation(self) -> list[dict[str, str]]:
        """The messages with their texts.

        Raises:
            ValueError: a message holds anything but text.
        """
        return [{"role": message.role, "content": _text(message)} for message in self.messages]


def _text(message: _Message) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = message.content or []
    if not parts or not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
        raise ValueError("messages may hold only text")
    return "".join(part["text"] for part in parts)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
