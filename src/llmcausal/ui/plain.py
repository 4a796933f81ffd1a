"""Progress as plain lines, for logs and pipes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmcausal.train.callback import Callback, FitContext, Record
from llmcausal.ui.console import clean
from llmcausal.ui.figures import (
    CAUSAL_METRICS,
    LOSS_TERMS,
    PROBE_METRICS,
    duration,
    figure,
    gibibytes,
    memory_of_others,
    step_time,
    tokens_per_second,
)
from llmcausal.ui.pace import Pace

QUIET_SECONDS = 15.0
"""Longest silence while batches are being done."""
LABELS = {
    **LOSS_TERMS,
    **CAUSAL_METRICS,
    **PROBE_METRICS,
    "learning_rate": "lr",
    "grad_norm": "grad",
}


class PlainLog(Callback):
    """Prints one line per step, validation, checkpoint and note; must come last.

    Within a long step or validation it prints a line every 15 s, as batches are done.

    Args:
        target: Where to print.
        clock: Seconds from any start, never going back.
    """

    def __init__(self, target: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = target
        self._clock = clock
        self._pace = Pace(clock)
        self._notes_told = 0
        self._step_told = -1
        self._checkpoints: list[str] = []
        self._validated, self._validation_batches = 0, 0
        self._printed_at = clock()

    def on_fit_start(self, context: FitContext) -> None:
        """Says what is about to run."""
        samples = ", ".join(f"{count} {name}" for name, count in context.samples.items())
        start = f"from step {context.state.step} " if context.state.step else ""
        self._print(
            f"{context.config.name}: {start}to step {context.total_steps} on {context.device}, "
            f"{samples} triplets"
        )
        self._tell_notes(context)

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        """Says that a validation begins."""
        self._pace.validation_started()
        self._validated, self._validation_batches = 0, batches
        self._print(f"{_position(context)} validating: {batches} batches")

    def on_validation_batch(self, context: FitContext) -> None:
        """Counts a batch, aloud if it has been quiet for long."""
        self._validated += 1
        self._print_seldom(
            f"{_position(context)} validating: batch {self._validated}/{self._validation_batches}"
        )

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        """Tells of a micro-batch if it has been quiet for long."""
        if done < of:
            self._print_seldom(f"{_position(context)} micro-batch {done}/{of}")

    def on_record(self, context: FitContext, record: Record) -> None:
        """Prints the step's line, its validation's, and new notes."""
        self._pace.step_ended(record)
        if record["step"] > 0:
            self._print(f"{_position(context)} {self._step_figures(context, record)}")
        validated = _figures(record, "val_")
        if validated:
            self._print(f"{_position(context)} validation: {validated}")
        self._step_told = context.state.step
        self._tell_checkpoints()
        self._tell_notes(context)

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        """Says where the checkpoint is, once its step has been told."""
        metric, value = context.config.checkpoint.best_metric, context.state.best_value
        what = f"best {metric} {figure(metric, value)}" if is_best else "checkpoint"
        self._checkpoints.append(f"{_position(context)} {what}: {path}")
        if self._step_told == context.state.step:
            self._tell_checkpoints()

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        """Says how the run ended."""
        self._tell_checkpoints()
        self._tell_notes(context)
        reason = f": {context.stop_reason}" if context.stop_reason else ""
        self._print(f"{_position(context)} {outcome}{reason}")

    def _step_figures(self, context: FitContext, record: Record) -> str:
        parts = [f"epoch {record['epoch']:.2f}", _figures(record)]
        speed = tokens_per_second(record.get("tokens"), record.get("seconds"))
        if speed is not None:
            parts.append(f"{figure('tokens_per_second', speed):>6} tokens/s")
        if "memory_bytes" in record:
            held = [record["memory_bytes"], *memory_of_others(record)]
            parts.append(" + ".join(map(gibibytes, held)))
        if "seconds" in record:
            parts.append(f"{step_time(record['seconds']):>11}")
        eta = self._pace.eta_seconds(context)
        if eta is not None:
            parts.append(f"ETA {duration(eta)}")
        return "  ".join(parts)

    def _tell_checkpoints(self) -> None:
        for line in self._checkpoints:
            self._print(line)
        self._checkpoints.clear()

    def _tell_notes(self, context: FitContext) -> None:
        for note in context.notes[self._notes_told :]:
            self._print(f"note: {note}")
        self._notes_told = len(context.notes)

    def _print_seldom(self, text: str) -> None:
        if self._clock() - self._printed_at >= QUIET_SECONDS:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(clean(text).replace("\n", " ")), soft_wrap=True)
        self._printed_at = self._clock()


def _position(context: FitContext) -> str:
    total = str(context.total_steps)
    return f"step {context.state.step:>{len(total)}}/{total}"


def _figures(record: Record, prefix: str = "") -> str:
    return "  ".join(
        f"{label} {figure(name, record[prefix + name]):>7}"
        for name, label in LABELS.items()
        if prefix + name in record
    )
