"""A tracker whose server goes down."""

from __future__ import annotations

import time
from collections.abc import Mapping

from llmcausal.train.callbacks import tracking
from llmcausal.train.trackers.tracker import TrackedRun, Tracker

NAME = f"{__name__}:Down"
WAIT_SECONDS = 0.3
_plan = {"calls": 0, "hangs": 0}


def goes_down(after_calls: int, *, hangs: bool) -> None:
    """Makes `Down` fail, or never answer, after so many calls; nobody waits a minute for it."""
    _plan.update(calls=after_calls, hangs=int(hangs))
    tracking.FINISH_SECONDS = tracking.START_SECONDS = WAIT_SECONDS


class Down(Tracker):
    """Answers until it is down."""

    def start(self, run: TrackedRun, run_id: str | None) -> str:
        self._called()
        return "one"

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._called()

    def finish(self, outcome: str) -> None:
        self._called()

    def _called(self) -> None:
        _plan["calls"] -= 1
        if _plan["calls"] >= 0:
            return
        if _plan["hangs"]:
            time.sleep(3600)
        raise ConnectionError("no route to the tracker")
