"""What the dashboard knows of a run at one moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmcausal.train.callback import FitContext, Record
from llmcausal.train.callbacks.memory_monitor import MemoryMonitor
from llmcausal.ui.figures import tokens_per_second
from llmcausal.ui.pace import Pace


@dataclass
class RunView:
    """Everything that is drawn.

    Attributes:
        context: The run.
        memory: Source of memory figures, where one is registered.
        clock: Seconds from any start, never going back.
        record: Newest row of a training step.
        validation: Newest row with validation figures.
        history: Values so far of each figure, oldest first.
        micro_batches: Done and all of the step under way.
        validation_batches: Done and all of the validation under way, or None.
        checkpoint: Path of the newest checkpoint and when it was written, by `clock`.
        outcome: How the run ended, once it has.
    """

    context: FitContext
    memory: MemoryMonitor | None = None
    clock: Callable[[], float] = time.monotonic
    record: Record = field(default_factory=dict)
    validation: Record = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    micro_batches: tuple[int, int] | None = None
    validation_batches: tuple[int, int] | None = None
    checkpoint: tuple[Path, float] | None = None
    outcome: str | None = None

    def __post_init__(self) -> None:
        self.pace = Pace(self.clock)
        self._began = self.clock()
        self._seconds_before = self.context.state.train_seconds
        self._seconds_in_all: float | None = None

    @property
    def elapsed_seconds(self) -> float:
        """Time since the run began, over all its sessions; stands still once it has ended."""
        if self._seconds_in_all is not None:
            return self._seconds_in_all
        return self._seconds_before + self.clock() - self._began

    def end(self, outcome: str) -> None:
        """Takes over how the run ended."""
        self._seconds_in_all = self.elapsed_seconds
        self.outcome = outcome

    def add(self, record: Record) -> None:
        """Takes over a complete row."""
        if any(key.startswith("val_") for key in record):
            self.validation = record
        speed = tokens_per_second(record.get("tokens"), record.get("seconds"))
        figures = {**record, "tokens_per_second": speed}
        if record["step"] > 0:
            self.record = figures
        for name, value in figures.items():
            if isinstance(value, (int, float)):
                self.history.setdefault(name, []).append(float(value))
        self.micro_batches = self.validation_batches = None
