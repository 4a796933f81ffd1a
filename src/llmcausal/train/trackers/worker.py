"""One thread that does a tracker's work, so that no network makes training wait."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue

QUEUED = 1000
"""Calls that may wait; a tracker that falls further behind is switched off."""
MESSAGE_LENGTH = 300


class Worker:
    """Does actions in the order given, on a daemon thread, until one fails.

    Attributes:
        failure: Why nothing more is done; None while all is well.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._actions: Queue[Callable[[], object] | None] = Queue(QUEUED)
        threading.Thread(target=self._work, daemon=True, name="tracker").start()

    def give(self, action: Callable[[], object]) -> None:
        """Leaves an action to the thread; never waits."""
        if self.failure is not None:
            return
        try:
            self._actions.put_nowait(action)
        except Full:
            self.failure = f"it is {QUEUED} calls behind"

    def wait(self, seconds: float) -> bool:
        """Waits until all that was given is done, or passed over after a failure."""
        queue = self._actions
        with queue.all_tasks_done:
            return queue.all_tasks_done.wait_for(lambda: not queue.unfinished_tasks, seconds)

    def end(self) -> None:
        """Ends the thread after what it is doing."""
        self.failure = self.failure or "it has ended"
        with suppress(Full):
            self._actions.put_nowait(None)

    def _work(self) -> None:
        for action in iter(self._actions.get, None):
            try:
                if self.failure is None:
                    action()
            except BaseException as error:  # whatever a tracker does, training goes on
                self.failure = _told(error)
            self._actions.task_done()


def _told(error: BaseException) -> str:
    """Returns an error in one line, without a password that stands in an address."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return re.sub(r"//[^/@\s]+@", "//", text)[:MESSAGE_LENGTH]
