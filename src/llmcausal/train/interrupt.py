"""Ctrl-C and SIGTERM: finish the step and save, or stop, and say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from llmcausal.errors import Interrupted


class InterruptGuard:
    """Remembers a first SIGINT or SIGTERM while active; a second SIGINT stops at once.

    Args:
        on_signal: Called once, when the first signal arrives.

    Attributes:
        signal_number: The signal received, or None.
    """

    def __init__(self, on_signal: Callable[[], None]) -> None:
        self.on_signal = on_signal
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        """Takes over the signals; only the main thread can, so elsewhere nothing changes."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal_number is None:
            self.on_signal()
        self.signal_number = number


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
    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    try:
        yield
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        raise Interrupted(f"Interrupted. {advice}", number) from None
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated
