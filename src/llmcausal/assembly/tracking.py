"""The trackers of a run after its last step: they also get the final evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llmcausal.train.callbacks.tracking import Tracking
from llmcausal.train.run import Run
from llmcausal.ui.status import show_notes, status


def track_evaluation(run: Run, result: Mapping[str, Any]) -> None:
    """Hands the final evaluation to the run's trackers, if it has any."""
    for callback in run.callbacks:
        if isinstance(callback, Tracking):
            callback.log_evaluation(result, run.state.step)


@contextmanager
def trackers_closed(run: Run) -> Iterator[None]:
    """Ends the run's trackers, whatever ends the run."""
    try:
        yield
    finally:
        for callback in run.callbacks:
            if isinstance(callback, Tracking) and callback.active:
                with status("Sending what the trackers hold"):
                    notes = callback.close()
                show_notes(notes)
