"""Completions and chats: from a request to its answer, whole or as server-sent events."""

import asyncio
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from skiplab.engine.continuous import QueueFullError
from skiplab.engine.generation import GenerationOptions
from skiplab.export.method import SavedMethod
from skiplab.serve.limits import Limits
from skiplab.serve.metrics import ServerMetrics
from skiplab.serve.outputs import Outputs, Piece
from skiplab.serve.protocol import ApiError, ChatRequest, CompletionRequest, GenerationRequest, usage
from skiplab.serve.scheduler import Scheduler

_POLL_SECONDS = 0.1


@final
@dataclass(frozen=True)
class Server:
    """What all endpoints work with.

    Attributes:
        name: of the model.
    """

    method: SavedMethod
    name: str
    limits: Limits
    scheduler: Scheduler
    metrics: ServerMetrics

    def options(self, request: GenerationRequest) -> tuple[GenerationOptions, int]:
        """A request's options, and its tokens per output.

        Raises:
            ApiError: they are not served, or beyond the limits.
        """
        if request.model not in (self.name, "default"):
            raise ApiError(
                404,
                f"there is no model {request.model!r} here; this server has {self.name!r}",
                code="model_not_found",
                param="model",
            )
        try:
            options = request.options(self.method.defaults)
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        limit = request.limit or options.max_new_tokens or self.method.max_new_tokens
        most = self.limits.max_new_tokens
        if most is not None and limit > most:
            raise ApiError(400, f"max_tokens must be at most {most} on this server, got {limit}", param="max_tokens")
        if options.min_new_tokens > limit:
            raise ApiError(400, f"min_tokens={options.min_new_tokens} exceeds max_tokens={limit}", param="min_tokens")
        return options, limit

    def check_prompts(self, prompts: Sequence[Sequence[int]], options: GenerationOptions, limit: int) -> None:
        """Refuse what cannot be decoded.

        Raises:
            ApiError: there are too many, or one is empty, too long, or of ids that there are not.
        """
        outputs = len(prompts) * options.num_return_sequences
        if not 1 <= outputs <= self.limits.max_outputs:
            raise ApiError(400, f"a request must ask for 1 to {self.limits.max_outputs} outputs, got {outputs}")
        vocabulary = self.method.backbone.model.config.vocab_size
        positions = self.method.backbone.max_positions - limit + 1
        longest = min(positions, self.limits.max_prompt_tokens or positions)
        for prompt in prompts:
            if not prompt or not all(0 <= token < vocabulary for token in prompt):
                raise ApiError(400, f"a prompt must hold token ids from 0 to {vocabulary - 1}", param="prompt")
            if len(prompt) > longest:
                raise ApiError(
                    400,
                    f"a prompt of {len(prompt)} tokens is longer than the {max(longest, 0)} that max_tokens={limit} "
                    "and this server's limits leave; shorten it or lower max_tokens",
                    code="context_length_exceeded",
                )


class _Endpoint(ABC):
    """The form of one endpoint's answers."""

    prefix: str
    whole: str
    part: str

    @abstractmethod
    def prompts(self, server: Server, request: Any) -> list[list[int]]:
        """Token ids of a request's prompts.

        Raises:
            ValueError: they are no prompts.
        """

    @abstractmethod
    def choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        """An output in a whole answer."""

    @abstractmethod
    def chunk(self, piece: Piece, first: bool) -> dict[str, Any]:
        """A piece of an output in a stream."""


@final
class Completions(_Endpoint):
    """`/v1/completions`."""

    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def prompts(self, server: Server, request: CompletionRequest) -> list[list[int]]:
        given: Any = request.prompt
        if isinstance(given, str) or not given or isinstance(given[0], str):
            return server.method.prompt_ids(given)
        return [given] if isinstance(given[0], int) else given

    def choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def chunk(self, piece: Piece, first: bool) -> dict[str, Any]:
        return self.choice(piece.index, piece.text, piece.finish_reason)


@final
class Chats(_Endpoint):
    """`/v1/chat/completions`."""

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def prompts(self, server: Server, request: ChatRequest) -> list[list[int]]:
        return [server.method.conversation(request.conversation())]

    def choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}

    def chunk(self, piece: Piece, first: bool) -> dict[str, Any]:
        delta = {**({"role": "assistant"} if first else {}), "content": piece.text}
        return {"index": piece.index, "delta": delta, "logprobs": None, "finish_reason": piece.finish_reason}


async def answer(server: Server, endpoint: _Endpoint, asked: GenerationRequest, connection: Request) -> Response:
    """A request's answer.

    Raises:
        ApiError: the request is refused, or decoding failed.
    """
    began = time.perf_counter()
    options, limit = server.options(asked)
    try:
        prompts = endpoint.prompts(server, asked)
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    server.check_prompts(prompts, options, limit)
    outputs = Outputs(server.method, server.scheduler, prompts, options, limit)
    try:
        outputs.submit()
    except QueueFullError as error:
        raise ApiError(429, f"the queue is full: {error}; try again later", code="queue_full") from error
    prompt_tokens = sum(map(len, prompts))
    server.metrics.prompt_tokens.inc(prompt_tokens)
    head = {"id": f"{endpoint.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": server.name}
    answering = _Answering(server, endpoint, outputs, head, prompt_tokens, began)
    if asked.stream:
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return StreamingResponse(answering.events(with_usage), media_type="text/event-stream")
    return await answering.whole(len(prompts) * options.num_return_sequences, connection)


@final
@dataclass(frozen=True)
class _Answering:
    """An answer under way; it frees the outputs' rows however it ends."""

    server: Server
    endpoint: _Endpoint
    outputs: Outputs
    head: dict[str, Any]
    prompt_tokens: int
    began: float

    async def whole(self, count: int, connection: Request) -> Response:
        """All outputs at once; nothing if the client is gone."""
        collecting, watching = asyncio.create_task(self._collected(count)), asyncio.create_task(_gone(connection))
        try:
            await asyncio.wait((collecting, watching), return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                return Response(status_code=499)
            choices = [self.endpoint.choice(index, *one) for index, one in enumerate(collecting.result())]
        finally:
            collecting.cancel()
            watching.cancel()
            self.outputs.free()
        body = {**self.head, "object": self.endpoint.whole, "choices": choices, "usage": self._usage()}
        return JSONResponse(body)

    async def _collected(self, count: int) -> list[tuple[str, str | None]]:
        texts: list[str] = [""] * count
        reasons: list[str | None] = [None] * count
        async for piece in self._pieces():
            texts[piece.index] += piece.text
            reasons[piece.index] = piece.finish_reason
        return list(zip(texts, reasons, strict=True))

    async def events(self, with_usage: bool) -> AsyncIterator[str]:
        """Server-sent events, up to `[DONE]`. A client that goes away closes the iterator."""
        head = {**self.head, "object": self.endpoint.part, **({"usage": None} if with_usage else {})}
        begun: set[int] = set()
        try:
            async for piece in self._pieces():
                choice = self.endpoint.chunk(piece, piece.index not in begun)
                begun.add(piece.index)
                yield _event({**head, "choices": [choice]})
        except ApiError as error:
            # The status is sent already.
            yield _event(error.body)
        finally:
            self.outputs.free()
        if with_usage:
            yield _event({**head, "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    async def _pieces(self) -> AsyncIterator[Piece]:
        metrics, first = self.server.metrics, True
        try:
            async for piece in self.outputs.pieces():
                if first:
                    metrics.first_token.observe(time.perf_counter() - self.began)
                    first = False
                yield piece
        except ApiError:
            raise
        except Exception as error:
            raise ApiError(500, f"decoding failed: {type(error).__name__}: {error}") from error
        finally:
            metrics.generated_tokens.inc(self.outputs.tokens)
            metrics.duration.observe(time.perf_counter() - self.began)

    def _usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, self.outputs.tokens)


async def _gone(connection: Request) -> None:
    """Returns when the client has gone."""
    while not await connection.is_disconnected():
        await asyncio.sleep(_POLL_SECONDS)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
