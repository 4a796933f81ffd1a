"""The server as clients meet it: on a port of the loopback, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from llmcausal.server import engine as engine_module
from llmcausal.server.app import Served, address, bind, build_app, make_server
from llmcausal.server.engine import Engine, Limits

Serve = Callable[..., httpx.Client]


@contextmanager
def listening(app: Any, client_seconds: float) -> Iterator[str]:
    """Runs an application; yields its URL."""
    socket, begun = bind("127.0.0.1", 0), threading.Event()
    server = make_server(app, client_seconds, begun.set)
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    try:
        assert begun.wait(60)
        yield address(socket)
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


@pytest.fixture
def serve(peft_model: Any, template: Any) -> Iterator[Serve]:
    """Serves the tiny model: `serve(Limits(...), token=..., ...)`; returns a client."""
    with ExitStack() as stack:

        def start(
            limits: Limits | None = None,
            token: str | None = None,
            adapter: bool = True,
            spans: bool = False,
        ) -> httpx.Client:
            limits = limits or Limits()
            engine = Engine(peft_model, template, limits, adapter=adapter)
            engine.start()
            stack.callback(engine.close)
            app = build_app(Served(engine, "tiny", token, ("127.0.0.1",), spans))
            url = stack.enter_context(listening(app, limits.client_seconds))
            client = httpx.Client(base_url=url, timeout=60, trust_env=False)
            return stack.enter_context(client)

        yield start


class Gate:
    """Stands in for the model: each token of an answer, an `a`, takes a permit."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.answers_begun = 0

    def release(self, tokens: int) -> None:
        self.permits.release(tokens)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, chatml_tokenizer: Any) -> Gate:
    """Takes the model's place in every server that starts from here on."""
    made = Gate()
    letter = chatml_tokenizer.convert_tokens_to_ids("a")

    @contextmanager
    def streaming(*_: Any) -> Iterator[Any]:
        def stream(prompt: Sequence[int], most: int) -> Iterator[int]:
            made.answers_begun += 1
            for _ in range(most):
                assert made.permits.acquire(timeout=30)
                yield letter

        yield stream

    monkeypatch.setattr(engine_module, "streaming", streaming)
    return made
