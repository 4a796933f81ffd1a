"""What a tracker is given and must be able to do, and the thread that it works on."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmcausal.config import TrackingSection

Row = Mapping[str, Any]
"""One prompt with its answer; every row of a table has the same keys."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker learns of the run when it starts."""

    name: str
    run_dir: Path  # exists. A tracker that writes files writes them here.
    # Every setting, by section, ready for JSON; of folders only the last name.
    settings: Mapping[str, Any]
    tracking: TrackingSection
    first_step: int  # the step whose figures come next; later ones of an earlier start come again
    notes: list[str] = field(default_factory=list)  # takes notes for the user


class Tracker(ABC):
    """Base of all trackers; constructed without arguments.

    All but the class methods are called on one thread of the tracker's own, in order, so they may
    wait for a network. An error becomes a note for the user and switches the tracker off; training
    continues.
    """

    @classmethod
    def problem(cls, tracking: TrackingSection) -> str | None:
        """Returns why the run must not start with this tracker, and what to type; else None."""
        return None

    @classmethod
    def destination(cls, tracking: TrackingSection) -> str:
        """Says where the figures would go now; may take seconds where a network must answer."""
        return "wherever it sends them"

    @abstractmethod
    def start(self, run: TrackedRun, run_id: str | None) -> str:
        """Starts a run, or continues the run of that id, and returns its id.

        An id that is to be kept for a resume has letters, digits, dot, underscore and dash only.
        """

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a step; all are finite."""

    def summarize(self, figures: Mapping[str, float], step: int) -> None:
        """Takes the figures of the final evaluation."""
        self.log(step, figures)

    def log_table(self, name: str, rows: Sequence[Row], step: int) -> None:  # noqa: B027
        """Takes prompts and answers; called only if `tracking.tables` is on."""

    def log_files(self, name: str, files: Sequence[Path]) -> None:  # noqa: B027
        """Takes the best checkpoint; called only if `tracking.log_model` is on."""

    def finish(self, outcome: str) -> None:  # noqa: B027
        """Sends what is unsent; `outcome` as in `Callback.on_fit_end`. Nothing comes after."""


def missing_package(*modules: str, extra: str) -> str | None:
    """Returns what to type if one of these modules is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install 'llmcausal[{extra}]'"
    return None
