"""The HTTP side: sockets, access and limits, slow clients, and OpenAI's response formats."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmcausal.errors import UsageError
from llmcausal.server.asked import Asked, Refusal, read_chat, read_completion
from llmcausal.server.engine import Engine, Event, Finished

T = TypeVar("T")

_CONNECTIONS = 256
_SHUTDOWN_SECONDS = 5
_CLOSES = (408, 413)
"""Statuses of requests that were not read to the end, so their connections must close."""


@dataclass(frozen=True)
class Served:
    engine: Engine
    name: str
    token: str | None  # bearer token that requests need
    hosts: tuple[str, ...]  # accepted host names of this server; `*` for any
    spans: bool = False  # the training data has spans


def build_app(served: Served) -> Starlette:
    endpoints = _Endpoints(served)
    # Web pages in a local browser have no access: a rebound host name is not accepted, and a
    # cross-origin JSON body needs a CORS permission, which this server never gives.
    return Starlette(
        routes=[
            Route("/health", endpoints.health),
            Route("/v1/models", endpoints.models),
            Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
            Route("/v1/completions", endpoints.completions, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(served.hosts))],
        exception_handlers={
            Refusal: _refused,
            HTTPException: _failed,
            ClientDisconnect: _unheard,
        },
    )


class _Endpoints:
    def __init__(self, served: Served) -> None:
        self._served = served

    async def health(self, request: Request) -> Response:
        engine = self._served.engine
        facts = {
            "status": "ok" if engine.alive else "stopped",
            "model": self._served.name,
            "waiting": engine.waiting,
        }
        return JSONResponse(facts, 200 if engine.alive else 503)

    async def models(self, request: Request) -> Response:
        self._check_token(request)
        model = {"id": self._served.name, "object": "model", "owned_by": "llmcausal"}
        return JSONResponse({"object": "list", "data": [model]})

    async def chat(self, request: Request) -> Response:
        read = partial(read_chat, spans=self._served.spans)
        return await self._answered(request, read, chat=True)

    async def completions(self, request: Request) -> Response:
        return await self._answered(request, read_completion, chat=False)

    async def _answered(
        self, request: Request, read: Callable[[bytes], Asked], *, chat: bool
    ) -> Response:
        self._check_token(request)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refusal(415, "invalid_request", "content-type must be application/json")
        asked = read(await self._body(request))
        if asked.model not in ("", self._served.name):
            name = self._served.name
            raise Refusal(404, "model_not_found", f"this server has one model, {name!r}")
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        engine = self._served.engine
        job = engine.submit(asked, tell)
        reply = _Reply(self._served.name, chat)
        with ExitStack() as stack:
            stack.callback(engine.cancel, job)
            first = await _unless_gone(request, events.get())
            if isinstance(first, Refusal):
                raise first
            if asked.streams:
                return _Stream(_streamed(reply, first, events), stack.pop_all().close)
            assert isinstance(first, Finished)  # texts are for streams
            return JSONResponse(reply.whole(first))

    def _check_token(self, request: Request) -> None:
        token = self._served.token
        if token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
            raise Refusal(401, "invalid_token", "this server needs a bearer token")

    async def _body(self, request: Request) -> bytes:
        limits = self._served.engine.limits
        most = limits.body_bytes
        too_large = Refusal(413, "too_large", f"a request may have at most {most} bytes")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            raise too_large
        body = b""
        try:
            async with asyncio.timeout(limits.client_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise Refusal(408, "too_slow", "the request took too long to arrive") from None
        return body


class _Stream(StreamingResponse):
    """Server-sent events; `ended` is called at the end, even of a stream that never started."""

    def __init__(self, lines: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(lines, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class _Reply:
    """One answer in OpenAI's format."""

    def __init__(self, model: str, chat: bool) -> None:
        self._chat = chat
        self._shared = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, event: Finished) -> dict[str, Any]:
        text = event.answer.text
        message = {"message": {"role": "assistant", "content": text}}
        choice = {"index": 0, **(message if self._chat else {"text": text}), **_reason(event)}
        kind = "chat.completion" if self._chat else "text_completion"
        facts = {"usage": _usage(event), **_detection(event)}
        return {**self._shared, "object": kind, "choices": [choice], **facts}

    def piece(self, text: str) -> str:
        piece = {"delta": {"content": text}} if self._chat else {"text": text}
        return self._chunk({**piece, "finish_reason": None})

    def end(self, event: Finished) -> str:
        last: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        return self._chunk({**last, **_reason(event)}, usage=_usage(event), **_detection(event))

    def _chunk(self, choice: dict[str, Any], **others: Any) -> str:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        choices = [{"index": 0, **choice}]
        return _line({**self._shared, "object": kind, "choices": choices, **others})


async def _streamed(
    reply: _Reply, event: Event, events: asyncio.Queue[Event]
) -> AsyncIterator[str]:
    while isinstance(event, str):
        yield reply.piece(event)
        event = await events.get()
    if isinstance(event, Refusal):
        yield _line({"error": _error(event)})
        return
    if event.rest:
        yield reply.piece(event.rest)
    yield reply.end(event)
    yield "data: [DONE]\n\n"


async def _unless_gone(request: Request, waiting: Awaitable[T]) -> T:
    """Waits for a result; raises `ClientDisconnect` if the client disconnects first."""
    answer = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(request.receive())  # after the body, only a disconnect
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientDisconnect
    finally:
        answer.cancel()
        gone.cancel()


def _reason(event: Finished) -> dict[str, str]:
    return {"finish_reason": "stop" if event.answer.stopped else "length"}


def _usage(event: Finished) -> dict[str, int]:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.new_tokens,
        "total_tokens": event.prompt_tokens + event.new_tokens,
    }


def _detection(event: Finished) -> dict[str, Any]:
    return {"injection": event.detection} if event.detection else {}


def _line(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


def _error(refusal: Refusal) -> dict[str, Any]:
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {"message": refusal.message, "type": kind, "code": refusal.code, "param": None}


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    headers = {"connection": "close"} if refusal.status in _CLOSES else {}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.status == 429:
        headers["retry-after"] = "1"
    return JSONResponse({"error": _error(refusal)}, refusal.status, headers)


async def _unheard(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client has disconnected


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.status_code, "invalid_request", error.detail)
    return JSONResponse({"error": _error(refusal)}, error.status_code, error.headers)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """Binds a socket, with port 0 to a free port; raises `UsageError` if that is impossible."""
    try:
        with ExitStack() as stack:
            family, kind, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            taken = stack.enter_context(socket.socket(family, kind))
            if os.name == "posix":  # on Windows it would let two servers share a port
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, port))
            stack.pop_all()
            return taken
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host {host} --port {port}: cannot listen there: {error}; give another port, or "
            "stop the program that uses this one"
        ) from error


def address(taken: socket.socket) -> str:
    """Returns the URL of a bound socket."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def timed_connection(seconds: float) -> type[H11Protocol]:
    """Returns a uvicorn connection class that drops slow clients.

    A client has `seconds` to send each request's headers, and to read more of its answer. The
    application limits the time for the body.
    """

    class TimedConnection(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._within(seconds)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._within(seconds)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._within(seconds, unread=True)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._within(seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def _within(self, seconds: float, *, unread: bool = False) -> None:
            self._stop_clock()
            self._deadline = self.loop.call_later(seconds, self._end_if_slow, unread)

        def _stop_clock(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()

        def _end_if_slow(self, unread: bool) -> None:
            if unread or self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return TimedConnection


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()


def make_server(
    app: ASGIApp, client_seconds: float, listening: Callable[[], None]
) -> uvicorn.Server:
    """Returns a server that logs no requests and calls `listening` once clients can connect."""
    return _Server(
        uvicorn.Config(
            app,
            http=timed_connection(client_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        ),
        listening,
    )
