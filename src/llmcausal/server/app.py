"""The HTTP side of the server: who may ask, how much, and OpenAI's forms of answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llmcausal.server.asked import Asked, Refusal, read_chat, read_completion
from llmcausal.server.engine import Engine, Event, Finished, Piece

T = TypeVar("T")

_CLOSES = (408, 413)
"""Of a request that was not read to its end the connection is of no further use."""


@dataclass(frozen=True)
class Served:
    """What is served, and to whom.

    Attributes:
        engine: Answers.
        name: Of the model.
        token: What requests must bear; None lets everyone on this machine ask.
        hosts: Names by which a client may call this server; `*` for any.
    """

    engine: Engine
    name: str
    token: str | None
    hosts: tuple[str, ...]


def build_app(served: Served) -> Starlette:
    """Returns the application."""
    endpoints = _Endpoints(served)
    # A page that a browser shows may not ask: by its own name it is another host, and a JSON body
    # needs a consent that this server never gives.
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


@dataclass(frozen=True)
class _Form:
    """How one endpoint writes its answers."""

    kind: str
    chat: bool

    def whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}

    def piece(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}} if self.chat else {"text": text}


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
        return await self._answered(request, read_chat, _Form("chat.completion", chat=True))

    async def completions(self, request: Request) -> Response:
        form = _Form("text_completion", chat=False)
        return await self._answered(request, read_completion, form)

    async def _answered(
        self, request: Request, read: Callable[[bytes], Asked], form: _Form
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
            with suppress(RuntimeError):  # the server has ended, and nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        engine = self._served.engine
        job = engine.submit(asked, tell)
        reply = _Reply(form, self._served.name)
        streaming = False
        try:
            first = await _unless_gone(request, events.get())
            if isinstance(first, Refusal):
                raise first
            if asked.streams:
                streaming = True
                return _Stream(_streamed(reply, first, events), lambda: engine.cancel(job))
            assert isinstance(first, Finished)  # pieces are for streams
            return JSONResponse(reply.whole(first))
        finally:
            if not streaming:
                engine.cancel(job)

    def _check_token(self, request: Request) -> None:
        token = self._served.token
        if token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
            raise Refusal(401, "invalid_token", "this server wants a bearer token")

    async def _body(self, request: Request) -> bytes:
        limits = self._served.engine.limits
        most = limits.body_bytes
        too_large = Refusal(413, "too_large", f"a request may have {most} bytes")
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
    """Server-sent events; `ended` is called however they end, even before the first."""

    def __init__(self, lines: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(lines, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class _Reply:
    """One answer in OpenAI's form."""

    def __init__(self, form: _Form, model: str) -> None:
        self._form = form
        self._shared = {
            "id": f"{'chatcmpl' if form.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, event: Finished) -> dict[str, Any]:
        choice = {"index": 0, **self._form.whole(event.answer.text), **_reason(event)}
        usage = _usage(event)
        return {**self._shared, "object": self._form.kind, "choices": [choice], "usage": usage}

    def piece(self, text: str) -> str:
        return self._chunk({**self._form.piece(text), "finish_reason": None})

    def end(self, event: Finished) -> str:
        last: dict[str, Any] = {"delta": {}} if self._form.chat else {"text": ""}
        return self._chunk({**last, **_reason(event)}, usage=_usage(event))

    def _chunk(self, choice: dict[str, Any], **others: Any) -> str:
        kind = f"{self._form.kind}.chunk" if self._form.chat else self._form.kind
        choices = [{"index": 0, **choice}]
        return _line({**self._shared, "object": kind, "choices": choices, **others})


async def _streamed(
    reply: _Reply, event: Event, events: asyncio.Queue[Event]
) -> AsyncIterator[str]:
    while isinstance(event, Piece):
        yield reply.piece(event.text)
        event = await events.get()
    if isinstance(event, Refusal):
        yield _line({"error": _error(event)})
        return
    if event.rest:
        yield reply.piece(event.rest)
    yield reply.end(event)
    yield "data: [DONE]\n\n"


async def _unless_gone(request: Request, waiting: Awaitable[T]) -> T:
    """Waits for something, unless the client goes first."""
    answer = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(request.receive())  # after the body there is only this to come
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
    return Response(status_code=400)  # nobody is there to read it


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.status_code, "invalid_request", error.detail)
    return JSONResponse({"error": _error(refusal)}, error.status_code, error.headers)
