"""The live screen of a training run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from llmcausal.train.callback import Callback, FitContext, Record
from llmcausal.train.callbacks.memory_monitor import MemoryMonitor
from llmcausal.train.callbacks.metrics_log import FILE_NAME, read_rows
from llmcausal.ui.panels import draw
from llmcausal.ui.run_view import RunView

REFRESH_PER_SECOND = 4


class Dashboard(Callback):
    """Draws the run and redraws it by a thread of its own, also while a micro-batch computes.

    Must come last, so that it sees what the other callbacks added. There is no lock: the training
    thread only appends to lists and replaces whole values, and a lock could be held when a signal
    handler prints.

    Args:
        target: A console on a terminal.
        memory: The run's memory monitor, for its limit and for readings within a step.
        clock: Seconds from any start, never going back.
    """

    def __init__(
        self,
        target: Console,
        memory: MemoryMonitor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = target
        self._memory = memory
        self._clock = clock
        self._view: RunView | None = None
        self._live: Live | None = None

    def on_fit_start(self, context: FitContext) -> None:
        """Shows the screen; a resumed run gets its earlier rows back."""
        self._view = RunView(context, self._memory, self._clock)
        if context.state.step > 0:
            for row in read_rows(context.run_dir / FILE_NAME):
                self._view.add(row)
        self._live = Live(
            get_renderable=self.render,
            console=self._console,
            refresh_per_second=REFRESH_PER_SECOND,
            vertical_overflow="crop",
            # A stderr sent to a file stays there; on the screen it goes above the dashboard.
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start(refresh=True)

    def render(self) -> RenderableType:
        """Draws the present state for the console's present size."""
        if self._view is None:
            return Text()
        return draw(self._view, self._console.size, self._console.options.ascii_only)

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        """Shows validation in place of micro-batches."""
        if self._view:
            self._view.pace.validation_started()
            self._view.validation_batches = (0, batches)

    def on_validation_batch(self, context: FitContext) -> None:
        if self._view and self._view.validation_batches:
            done, batches = self._view.validation_batches
            self._view.validation_batches = (done + 1, batches)

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        if self._view:
            self._view.micro_batches = (done, of)

    def on_record(self, context: FitContext, record: Record) -> None:
        """Takes over the row."""
        if self._view:
            self._view.pace.step_ended(record)
            self._view.add(record)

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        """Remembers the path and the time."""
        if self._view:
            self._view.checkpoint = (path, self._clock())

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        """Leaves the last picture on the screen and gives the terminal back."""
        if self._view:
            self._view.end(outcome)
        if self._live is not None:
            self._live.stop()
            self._live = None
