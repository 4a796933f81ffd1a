"""The base class of trackers."""

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
    name: str
    run_dir: Path  # exists; trackers write their files here
    settings: Mapping[str, Any]  # by section, as JSON values; folders' last names only
    tracking: TrackingSection
    first_step: int  # the next step; a resumed run repeats later steps of an earlier session
    notes: list[str] = field(default_factory=list)  # takes notes for the user


class Tracker(ABC):
    """Base of all trackers; constructed without arguments.

    Except for the class methods, each tracker has its own thread, which calls its methods in order:
    they may wait for a network. An error becomes a note for the user and switches the tracker off;
    training continues.
    """

    @classmethod
    def problem(cls, tracking: TrackingSection) -> str | None:
        """Returns why a run cannot start with this tracker, and the fix; None if it can."""
        return None

    @classmethod
    def destination(cls, tracking: TrackingSection) -> str:
        """Returns where the figures go; may take seconds to ask a network."""
        return "wherever it sends them"

    @abstractmethod
    def start(self, run: TrackedRun, run_id: str | None) -> str:
        """Starts a run, or continues the run of that id, and returns its id.

        A resume keeps only ids of letters, digits, dots, underscores and dashes.
        """

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Logs a step's figures; all are finite."""

    def summarize(self, figures: Mapping[str, float], step: int) -> None:
        """Logs the final evaluation's figures."""
        self.log(step, figures)

    def log_table(self, name: str, rows: Sequence[Row], step: int) -> None:  # noqa: B027
        """Logs prompts and answers, if `tracking.tables` is on."""

    def log_files(self, name: str, files: Sequence[Path]) -> None:  # noqa: B027
        """Logs the best checkpoint, if `tracking.log_model` is on."""

    def finish(self, outcome: str) -> None:  # noqa: B027
        """Sends unsent figures; `outcome` as in `Callback.on_fit_end`. The last call."""


def missing_package(*modules: str, extra: str) -> str | None:
    """Returns the install command if one of these modules is missing."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install 'llmcausal[{extra}]'"
    return None
