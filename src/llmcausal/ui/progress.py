"""A run's pace, its time left, and its progress as plain lines for logs and pipes."""

from __future__ import annotations

import time
from collections import deque
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

RECENT_STEPS = 20
FORECAST_AFTER = 5
"""Steps before a run's time is forecast; the first ones are slow."""
FORWARD_SHARE = 0.4
"""A generated token's time as a share of a trained one's: no backward pass, but small products."""


class Pace:
    """Measured times of this session's steps and validations."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)
        self._validation_seconds: float | None = None
        self._validation_began: float | None = None
        self._recorded_at = clock()

    @property
    def step_seconds(self) -> float | None:
        """The last 20 steps' mean time; None before the first."""
        return sum(self._steps) / len(self._steps) if self._steps else None

    def validation_started(self) -> None:
        self._validation_began = self._clock()

    def step_ended(self, record: Record) -> None:
        """Measures the step, and its validation if it had one."""
        self._recorded_at = self._clock()
        if self._validation_began is not None:
            self._validation_seconds = self._recorded_at - self._validation_began
            self._validation_began = None
        if "seconds" in record:
            self._steps.append(record["seconds"])

    def eta_seconds(self, context: FitContext) -> float | None:
        """Returns the time left, including validations; None before the first step."""
        step = self.step_seconds
        if step is None:
            return None
        done, total = context.state.step, context.total_steps
        left = (total - done) * step
        every = context.config.validation.every_steps or context.steps_per_epoch
        if self._validation_seconds is not None and every > 0:
            left += (total // every - done // every) * self._validation_seconds
        return max(0.0, left - (self._clock() - self._recorded_at))


class Forecast(Callback):
    """Adds a note after the first steps: the whole run's time by their pace.

    Args:
        answered_tokens: Tokens of the final evaluation's prompts and longest answers, of all sides.
        clock: Monotonic seconds.
    """

    def __init__(self, answered_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._answered = answered_tokens
        self._pace = Pace(clock)
        self._steps: list[tuple[float, int]] = []

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        self._pace.validation_started()

    def on_record(self, context: FitContext, record: Record) -> None:
        self._pace.step_ended(record)
        if "seconds" in record:
            self._steps.append((record["seconds"], record["tokens"]))
        if len(self._steps) != FORECAST_AFTER:
            return
        left = self._pace.eta_seconds(context) or 0.0
        seconds, tokens = map(sum, zip(*self._steps[1:], strict=True))
        evaluation = FORWARD_SHARE * seconds / tokens * self._answered
        parts = f"training {duration(left)}"
        if self._answered:
            parts += f", evaluation {duration(evaluation)}"
        context.notes.append(
            f"about {duration(left + evaluation)} more, by the pace of the first "
            f"{FORECAST_AFTER} steps: {parts}"
        )


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

    A long step or validation prints its batches, at most one line every 15 s.
    """

    def __init__(self, target: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = target
        self._clock = clock
        self._pace = Pace(clock)
        self._notes_printed = 0
        self._step_printed = -1
        self._checkpoints: list[str] = []
        self._validated, self._validation_batches = 0, 0
        self._printed_at = clock()

    def on_fit_start(self, context: FitContext) -> None:
        samples = ", ".join(f"{count} {name}" for name, count in context.samples.items())
        start = f"from step {context.state.step} " if context.state.step else ""
        self._print(
            f"{context.config.name}: {start}to step {context.total_steps} on {context.device}, "
            f"{samples} triplets"
        )
        self._print_notes(context)

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        self._pace.validation_started()
        self._validated, self._validation_batches = 0, batches
        self._print(f"{_position(context)} validating: {batches} batches")

    def on_validation_batch(self, context: FitContext) -> None:
        self._validated += 1
        self._print_seldom(
            f"{_position(context)} validating: batch {self._validated}/{self._validation_batches}"
        )

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        if done < of:
            self._print_seldom(f"{_position(context)} micro-batch {done}/{of}")

    def on_record(self, context: FitContext, record: Record) -> None:
        self._pace.step_ended(record)
        if record["step"] > 0:
            self._print(f"{_position(context)} {self._step_figures(context, record)}")
        validated = _figures(record, "val_")
        if validated:
            self._print(f"{_position(context)} validation: {validated}")
        self._step_printed = context.state.step
        self._print_checkpoints()
        self._print_notes(context)

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        metric, value = context.config.checkpoint.best_metric, context.state.best_value
        what = f"best {metric} {figure(metric, value)}" if is_best else "checkpoint"
        self._checkpoints.append(f"{_position(context)} {what}: {path}")
        if self._step_printed == context.state.step:  # otherwise its step's line comes first
            self._print_checkpoints()

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        self._print_checkpoints()
        self._print_notes(context)
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

    def _print_checkpoints(self) -> None:
        for line in self._checkpoints:
            self._print(line)
        self._checkpoints.clear()

    def _print_notes(self, context: FitContext) -> None:
        for note in context.notes[self._notes_printed :]:
            self._print(f"note: {note}")
        self._notes_printed = len(context.notes)

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
