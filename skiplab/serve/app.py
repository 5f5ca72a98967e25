"""The server as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skiplab.export.method import SavedMethod
from skiplab.serve.endpoints import Chats, Completions, Server, answer
from skiplab.serve.limits import Limits
from skiplab.serve.metrics import ServerMetrics
from skiplab.serve.protocol import ApiError, ChatRequest, CompletionRequest
from skiplab.serve.scheduler import Scheduler

_MESSAGES = MappingProxyType(
    {
        "extra_forbidden": "is not supported",
        "model_attributes_type": "must be a JSON object, with the header content-type: application/json",
    }
)


def make_app(method: SavedMethod, name: str, limits: Limits) -> FastAPI:
    """The application, whose decoding thread runs until its lifespan ends.

    Args:
        name: of the model, which clients ask for.
    """
    scheduler = Scheduler(method, limits)
    server = Server(method, name, limits, scheduler, ServerMetrics(scheduler))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        scheduler.close()

    app = FastAPI(title="skiplab", lifespan=lifespan)
    _add_errors(app)
    app.add_middleware(_Bounded, server=server)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, connection: Request) -> Response:
        return await answer(server, Completions(), asked, connection)

    @app.post("/v1/chat/completions")
    async def chats(asked: ChatRequest, connection: Request) -> Response:
        return await answer(server, Chats(), asked, connection)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "skiplab"}]}

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse(
            {"status": "ok"} if scheduler.alive else {"status": "not decoding"}, 200 if scheduler.alive else 503
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _add_errors(app: FastAPI) -> None:
    """All errors in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"] if part != "body")
        message = _MESSAGES.get(found["type"], found["msg"])
        return JSONResponse(ApiError(400, f"{place or 'the body'}: {message}", param=place or None).body, 400)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        return JSONResponse(ApiError(error.status_code, str(error.detail)).body, error.status_code)


@final
class _Bounded:
    """Counts requests, and refuses large ones before they are read. It touches no stream, so that the application
    sees a client go away."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if message["status"] != 404 else "other"
                self._server.metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        refused = self._refused(scope["method"], Headers(scope=scope).get("content-length", ""))
        await (refused or self._app)(scope, receive, counted)

    def _refused(self, method: str, size: str) -> Response | None:
        most = self._server.limits.max_body_bytes
        if size.isdigit() and int(size) > most:
            return JSONResponse(ApiError(413, f"a request may have at most {most} bytes, got {size}").body, 413)
        if method == "POST" and not size.isdigit():
            return JSONResponse(ApiError(411, "a request needs its content-length").body, 411)
        return None
