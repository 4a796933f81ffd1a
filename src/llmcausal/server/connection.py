"""The server's sockets: where it listens, and how long a client may take."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmcausal.errors import UsageError

_CONNECTIONS = 256
_SHUTDOWN_SECONDS = 5


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """Takes an address; port 0 takes a free one. Clients are turned away until a server listens.

    Raises:
        UsageError: If the address cannot be had.
    """
    try:
        family, kind, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise _refused(host, port, error) from error
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        raise _refused(host, port, error) from error
    return taken


def _refused(host: str, port: int, error: Exception) -> UsageError:
    return UsageError(
        f"--host {host} --port {port}: cannot listen there: {error}; give another port, or stop "
        "what holds this one"
    )


def address(taken: socket.socket) -> str:
    """Returns the URL at which a socket of this machine can be reached."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def timed_connection(seconds: float) -> type[H11Protocol]:
    """Returns uvicorn's connection, which ends when the client is slow.

    A client has `seconds` for the head of each request, and to make room for more of its answer.
    The application times the body itself.
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
    """Returns the server for an application; it logs neither requests nor addresses.

    Args:
        app: The application.
        client_seconds: As in `timed_connection`.
        listening: Called once clients can connect.
    """
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
