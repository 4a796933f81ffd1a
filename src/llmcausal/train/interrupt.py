"""Ctrl-C and SIGTERM: finish the step and save, or stop and say how to continue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from llmcausal.errors import Interrupted


@contextmanager
def signals_remembered(on_signal: Callable[[], None]) -> Iterator[list[int]]:
    """Yields a list that collects SIGINT and SIGTERM; a SIGINT after the first signal stops.

    `on_signal` is called once, when the first signal arrives.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not received:
            on_signal()
        received.append(number)

    with handled_by(receive, signal.SIGINT, signal.SIGTERM):
        yield received


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which Python does not raise by itself."""


@contextmanager
def stopping_explained(advice: str) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into an `Interrupted` with advice and exit code 130 or 143."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    with handled_by(terminate, signal.SIGTERM):
        try:
            yield
        except KeyboardInterrupt as error:
            number = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
            raise Interrupted(f"Interrupted. {advice}", number) from None


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Handles these signals; only the main thread can, others change nothing."""
    in_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handler) for number in numbers if in_main}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
