"""Ctrl-C and SIGTERM: finish the step and save, or stop, and say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from llmcausal.errors import Interrupted


@contextmanager
def signals_remembered(on_signal: Callable[[], None]) -> Iterator[list[int]]:
    """Remembers SIGINT and SIGTERM instead of stopping; a second SIGINT stops at once.

    Args:
        on_signal: Called once, when the first signal arrives.

    Yields:
        The numbers of the signals received so far.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not received:
            on_signal()
        received.append(number)

    with _handled_by(receive, signal.SIGINT, signal.SIGTERM):
        yield received


class _Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the program stands, as Ctrl-C is."""


@contextmanager
def stopping_explained(advice: str) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into an error that says how to go on.

    Args:
        advice: What is kept, and what to do.

    Raises:
        Interrupted: With exit code 130 or 143.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    with _handled_by(terminate, signal.SIGTERM):
        try:
            yield
        except KeyboardInterrupt as error:
            number = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
            raise Interrupted(f"Interrupted. {advice}", number) from None


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Handles signals meanwhile; only the main thread can, so elsewhere nothing changes."""
    in_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handler) for number in numbers if in_main}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
